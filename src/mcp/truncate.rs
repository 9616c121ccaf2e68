//! Converts long output to text: keeps its beginning and its end.

use crate::model::{Capture, Captured};

/// Number of bytes kept at the beginning, and at the end.
pub const END: usize = 32 * 1024;

/// Returns a writer that keeps the beginning and the end of a stream.
pub fn capture() -> Capture {
    Capture::head_and_tail(END, END)
}

/// Captured output as text.
#[derive(Debug, PartialEq, Eq)]
pub struct Truncated {
    /// The text, with a marker where bytes are missing.
    pub text: String,
    pub truncated: bool,
    /// Number of bytes that the command printed.
    pub total: u64,
}

impl From<Captured> for Truncated {
    fn from(captured: Captured) -> Self {
        let truncated = captured.omitted() > 0;
        let Captured { head, tail, total } = captured;
        let tail = Vec::from(tail);
        let text = if truncated {
            // Omit incomplete characters at the cut.
            let head = &head[..head.len() - unfinished(&head)];
            let skip = tail.iter().take(3).take_while(|b| **b & 0xc0 == 0x80);
            let tail = &tail[skip.count()..];
            let left_out = total - (head.len() + tail.len()) as u64;
            format!(
                "{}\n[... {left_out} of {total} bytes left out here ...]\n{}",
                String::from_utf8_lossy(head),
                String::from_utf8_lossy(tail)
            )
        } else {
            String::from_utf8_lossy(&[head, tail].concat()).into_owned()
        };
        Self {
            text,
            truncated,
            total,
        }
    }
}

/// Returns the length of an incomplete character at the end.
pub fn unfinished(bytes: &[u8]) -> usize {
    let end = bytes
        .utf8_chunks()
        .last()
        .map_or(&[][..], |it| it.invalid());
    match std::str::from_utf8(end) {
        Err(error) if error.error_len().is_none() => end.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Record;

    fn truncated(text: &str) -> Truncated {
        let capture = capture();
        capture.lock().record(text.as_bytes());
        capture.take().into()
    }

    #[test]
    fn gap_between_both_ends_is_marked() {
        let whole = truncated("all of it");
        assert_eq!((whole.text.as_str(), whole.truncated), ("all of it", false));
        let lines: String = (0..40_000).map(|number| format!("{number}\n")).collect();
        let cut = truncated(&lines);
        assert!(cut.truncated && cut.text.starts_with("0\n1\n"));
        assert!(cut.text.ends_with("39998\n39999\n"));
        let gap = cut.total - 2 * END as u64;
        let mark = format!("[... {gap} of {} bytes", cut.total);
        assert!(cut.text.contains(&mark));
    }

    #[test]
    fn characters_at_the_gap_stay_whole() {
        let cut = truncated(&format!("x{}", "é".repeat(END * 2)));
        assert!(!cut.text.contains('\u{fffd}'), "cut in a character");
    }

    #[test]
    fn unfinished_characters_are_counted() {
        assert_eq!(unfinished(b"abc"), 0);
        assert_eq!(unfinished("é".as_bytes()), 0);
        assert_eq!(unfinished(&"é".as_bytes()[..1]), 1);
        assert_eq!(unfinished(&"€".as_bytes()[..2]), 2);
        assert_eq!(unfinished(&"😀".as_bytes()[..3]), 3);
        assert_eq!(unfinished(&[0xff, 0x80]), 0);
        assert_eq!(unfinished(b""), 0);
    }
}
