//! A stream of any length in little memory: its beginning and its end.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Kept of each end.
pub const END: usize = 32 * 1024;

/// The near end of a stream.
#[derive(Debug, Clone, Default)]
pub struct HeadTail(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

/// What came, as text.
#[derive(Debug, PartialEq, Eq)]
pub struct Truncated {
    /// With a mark in place of what was left out.
    pub text: String,
    pub truncated: bool,
    /// Bytes that came.
    pub total: u64,
}

impl HeadTail {
    pub fn take(&self) -> Truncated {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let head = std::mem::take(&mut inner.head);
        let tail = Vec::from(std::mem::take(&mut inner.tail));
        let total = inner.total;
        let left_out = total - (head.len() + tail.len()) as u64;
        if left_out == 0 {
            let whole = [head, tail].concat();
            return Truncated {
                text: String::from_utf8_lossy(&whole).into_owned(),
                truncated: false,
                total,
            };
        }
        // A character cut in two would be shown as garbage.
        let head = &head[..head.len() - unfinished(&head)];
        let skip = tail.iter().take(3).take_while(|b| **b & 0xc0 == 0x80);
        let tail = &tail[skip.count()..];
        let left_out = total - (head.len() + tail.len()) as u64;
        let text = format!(
            "{}\n[... {left_out} of {total} bytes left out here ...]\n{}",
            String::from_utf8_lossy(head),
            String::from_utf8_lossy(tail)
        );
        Truncated {
            text,
            truncated: true,
            total,
        }
    }
}

/// How many bytes at the end begin a character that is not complete.
pub fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let length = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if length > back { back } else { 0 };
    }
    0
}

impl AsyncWrite for HeadTail {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.total += data.len() as u64;
        let fits = data.len().min(END - inner.head.len());
        let (head, rest) = data.split_at(fits);
        inner.head.extend_from_slice(head);
        let rest = &rest[rest.len().saturating_sub(END)..];
        let over = (inner.tail.len() + rest.len()).saturating_sub(END);
        inner.tail.drain(..over);
        inner.tail.extend(rest);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn both_ends_are_kept_and_the_gap_is_marked() {
        let clip = HeadTail::default();
        let mut writer = clip.clone();
        writer.write_all(b"all of it").await.unwrap();
        let whole = clip.take();
        assert_eq!((whole.text.as_str(), whole.truncated), ("all of it", false));

        let clip = HeadTail::default();
        let mut writer = clip.clone();
        for number in 0..40_000 {
            let line = format!("{number}\n");
            writer.write_all(line.as_bytes()).await.unwrap();
        }
        let cut = clip.take();
        assert!(cut.truncated && cut.text.starts_with("0\n1\n"));
        assert!(cut.text.ends_with("39998\n39999\n"));
        let gap = cut.total - 2 * END as u64;
        assert!(
            cut.text
                .contains(&format!("[... {gap} of {} bytes", cut.total))
        );
    }

    #[tokio::test]
    async fn characters_are_not_cut_in_two() {
        let clip = HeadTail::default();
        let text = format!("x{}", "é".repeat(END * 2));
        clip.clone().write_all(text.as_bytes()).await.unwrap();
        let cut = clip.take();
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
