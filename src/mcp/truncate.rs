//! The limits of everything that tools return. Sandboxes, servers and clients
//! control the sizes of output, texts and lists.

use crate::model::{Capture, Captured, incomplete_end};

/// Number of bytes kept at the beginning of a command's output, and at the end.
pub const END: usize = 32 * 1024;
/// Maximum bytes of each output stream of a job in a result.
pub const CHUNK: u64 = 64 * 1024;
/// Maximum bytes of a file to read, write or edit.
pub const FILE: u64 = 10 * 1024 * 1024;
/// Maximum number of files in a listing.
pub const FILES: usize = 5000;
/// Maximum bytes of all paths in a listing.
pub const PATHS: usize = 2 * 1024 * 1024;
/// Maximum number of items in every other list.
pub const ITEMS: usize = 500;
/// Maximum number of names in an error.
const NAMES: usize = 20;
/// Maximum bytes of every other text, such as an error or a name.
const TEXT: usize = 4 * 1024;
/// Maximum bytes of a result as JSON. A larger result is an error.
pub const RESULT: usize = 20 * 1024 * 1024;

/// Shortens a text that is longer than [`TEXT`], with a marker at its end.
pub fn text(mut text: String) -> String {
    if text.len() > TEXT {
        let end = TEXT - incomplete_end(&text.as_bytes()[..TEXT]);
        let omitted = text.len() - end;
        text.truncate(end);
        text.push_str(&format!(" [... and {omitted} more bytes]"));
    }
    text
}

/// Joins names for an error: `a, b and 3 more`.
pub fn names(all: &[String]) -> String {
    let mut joined = all[..all.len().min(NAMES)].join(", ");
    if all.len() > NAMES {
        joined.push_str(&format!(" and {} more", all.len() - NAMES));
    }
    text(joined)
}

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
            let head = &head[..head.len() - incomplete_end(&head)];
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
    fn texts_and_lists_of_names_are_bounded() {
        assert_eq!(text("é".repeat(TEXT / 2)), "é".repeat(TEXT / 2));
        let cut = text(format!("x{}", "é".repeat(TEXT)));
        let kept = format!("x{}", "é".repeat(TEXT / 2 - 1));
        let omitted = TEXT * 2 - (TEXT - 2);
        assert_eq!(cut, format!("{kept} [... and {omitted} more bytes]"));
        let labels = Vec::from_iter((0..NAMES + 2).map(|number| number.to_string()));
        assert!(names(&labels).ends_with(", 19 and 2 more"));
        assert_eq!(names(&labels[..2]), "0, 1");
        assert!(names(&["x".repeat(TEXT * 2)]).len() < TEXT + 100);
    }

    #[test]
    fn characters_at_the_gap_stay_whole() {
        let cut = truncated(&format!("x{}", "é".repeat(END * 2)));
        assert!(!cut.text.contains('\u{fffd}'), "cut in a character");
    }
}
