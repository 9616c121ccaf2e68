//! A client's messages, one a line.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::http::MESSAGE;

#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Without its end.
    Whole(Vec<u8>),
    /// Longer than [`MESSAGE`]; it was read to its end, and nothing of it kept.
    TooLong,
}

pub struct Lines<R>(R);

impl<R: AsyncBufRead + Unpin> Lines<R> {
    pub fn new(from: R) -> Self {
        Self(from)
    }

    /// The next line; the last need not have an end.
    pub async fn next(&mut self) -> io::Result<Option<Line>> {
        self.next_up_to(MESSAGE).await
    }

    async fn next_up_to(&mut self, limit: usize) -> io::Result<Option<Line>> {
        let mut line = Some(Vec::new());
        let mut began = false;
        loop {
            let found = self.0.fill_buf().await?;
            if found.is_empty() {
                return Ok(began.then(|| finished(line)));
            }
            began = true;
            let end = found.iter().position(|byte| *byte == b'\n');
            let part = &found[..end.unwrap_or(found.len())];
            match &mut line {
                Some(whole) if part.len() <= limit - whole.len() => whole.extend_from_slice(part),
                _ => line = None,
            }
            let used = part.len() + usize::from(end.is_some());
            self.0.consume(used);
            if end.is_some() {
                return Ok(Some(finished(line)));
            }
        }
    }
}

fn finished(line: Option<Vec<u8>>) -> Line {
    line.map_or(Line::TooLong, Line::Whole)
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    #[tokio::test]
    async fn a_line_that_is_too_long_is_passed_over_and_the_next_one_read() {
        let text = b"12345678\n123456789\n\n1234567890123456789012345\nx\n987654321";
        // In pieces that end anywhere.
        for room in 1..30 {
            let mut lines = Lines::new(BufReader::with_capacity(room, &text[..]));
            let mut found = Vec::new();
            while let Some(line) = lines.next_up_to(8).await.unwrap() {
                found.push(match line {
                    Line::Whole(line) => String::from_utf8(line).unwrap(),
                    Line::TooLong => "too long".to_owned(),
                });
            }
            let expected = ["12345678", "too long", "", "too long", "x", "too long"];
            assert_eq!(found, expected, "{room}");
        }
        let mut none = Lines::new(&b""[..]);
        assert_eq!(none.next().await.unwrap(), None);
        let mut last = Lines::new(&b"x"[..]);
        assert_eq!(last.next().await.unwrap(), Some(Line::Whole(b"x".into())));
    }
}
