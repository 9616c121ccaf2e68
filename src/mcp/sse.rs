//! Messages in the form of an event stream, as a server answers that has more
//! than one to say.

use serde_json::Value;

/// Takes the messages out of a stream.
#[derive(Default)]
pub struct Events {
    /// What came since the last event that was whole.
    open: Vec<u8>,
    /// So much of it has no end of an event in it.
    searched: usize,
}

impl Events {
    /// The messages that are whole with this.
    pub fn take(&mut self, chunk: &[u8]) -> Vec<Value> {
        self.open.extend_from_slice(chunk);
        let mut found = Vec::new();
        let mut begin = 0;
        while let Some((end, next)) = boundary(&self.open, begin, self.searched) {
            let event = String::from_utf8_lossy(&self.open[begin..end]);
            let data: Vec<&str> = event
                .lines()
                .filter_map(|line| line.strip_prefix("data:"))
                .map(|data| data.strip_prefix(' ').unwrap_or(data))
                .collect();
            found.extend(serde_json::from_str::<Value>(&data.join("\n")));
            begin = next;
            self.searched = next;
        }
        self.open.drain(..begin);
        self.searched = self.open.len();
        found
    }

    /// Bytes of an event that is not whole yet.
    pub fn held(&self) -> usize {
        self.open.len()
    }
}

/// Where the event at `begin` ends and where the next one begins, when the
/// end is not before `from`.
fn boundary(bytes: &[u8], begin: usize, from: usize) -> Option<(usize, usize)> {
    let ends = bytes.iter().enumerate().skip(from);
    for (at, _) in ends.filter(|(_, byte)| **byte == b'\n') {
        let event = &bytes[begin..=at];
        for end in [&b"\n\n"[..], b"\r\n\r\n"] {
            if let Some(event) = event.strip_suffix(end) {
                return Some((begin + event.len(), at + 1));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_taken_whole_from_pieces() {
        let mut events = Events::default();
        assert!(events.take(b": ping\n\nid: 1\nda").is_empty());
        assert_eq!(
            events.take(b"ta: {\"a\":1}\n\ndata: {\"b\":"),
            [json!({"a": 1})]
        );
        assert_eq!(events.held(), "data: {\"b\":".len());
        assert_eq!(events.take(b"2}\r\n\r\n"), [json!({"b": 2})]);
        assert_eq!(events.held(), 0);
    }

    #[test]
    fn ends_are_found_wherever_pieces_end() {
        let stream = b"data: 1\r\n\r\ndata: 2\n\n\ndata: 3\r\n\n\r\n\r\ndata: 4\n\n";
        let expected = Events::default().take(stream);
        assert_eq!(expected, [1, 2, 3, 4].map(|number| json!(number)));
        for first in 0..stream.len() {
            for second in first..stream.len() {
                let mut events = Events::default();
                let mut found = events.take(&stream[..first]);
                found.extend(events.take(&stream[first..second]));
                found.extend(events.take(&stream[second..]));
                assert_eq!(found, expected, "{first} {second}");
            }
        }
    }
}
