//! A parser of HTTP/1 messages without code of pixels.

use std::io::{self, BufRead};

/// Reads a message head with its final empty line. `None` at end of stream.
pub fn head(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(head))
}

/// The value of a header field.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Reads the body after `head`. Also appends the received bytes to `raw`,
/// including chunk sizes.
pub fn body(head: &str, from: &mut impl BufRead, raw: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    if let Some(length) = field(head, "content-length") {
        let mut content = vec![0; length.parse().map_err(io::Error::other)?];
        from.read_exact(&mut content)?;
        raw.extend_from_slice(&content);
        return Ok(content);
    }
    let mut content = Vec::new();
    let mut is_last = field(head, "transfer-encoding") != Some("chunked");
    while !is_last {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        from.read_exact(&mut chunk)?;
        content.extend_from_slice(&chunk[..size]);
        raw.extend_from_slice(line.as_bytes());
        raw.extend_from_slice(&chunk);
        is_last = size == 0;
    }
    Ok(content)
}
