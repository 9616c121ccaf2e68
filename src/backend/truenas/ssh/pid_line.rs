//! Removes the line with the command's process id from the output. Signals are
//! sent to that process id.

use super::command;

/// Maximum number of characters of a process id and a carriage return.
const MAX_PID: usize = 11;

/// Removes the first line of the form `pixels-process PID` from a stream.
#[derive(Default)]
pub(super) struct PidLineFilter {
    pub pid: Option<u32>,
    /// The beginning of a line that may contain the process id.
    line: Vec<u8>,
    /// Whether the current line cannot contain the process id.
    in_other_line: bool,
}

impl PidLineFilter {
    /// Returns the output without the line.
    pub fn strip(&mut self, data: &[u8]) -> Vec<u8> {
        if self.pid.is_some() {
            return data.to_vec();
        }
        let mut passed = Vec::new();
        for (at, byte) in data.iter().enumerate() {
            if self.in_other_line {
                passed.push(*byte);
                self.in_other_line = *byte != b'\n';
                continue;
            }
            self.line.push(*byte);
            if *byte != b'\n' {
                // A line that never ends must not delay the output.
                if !self.may_be_pid_line() {
                    passed.append(&mut self.line);
                    self.in_other_line = true;
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let text = String::from_utf8_lossy(&line);
            let pid = text.trim_end().strip_prefix(command::PID_LINE);
            self.pid = pid.and_then(|pid| pid.parse().ok());
            if self.pid.is_some() {
                passed.extend_from_slice(&data[at + 1..]);
                break;
            }
            // The login shell of the pixel printed this line.
            passed.extend(line);
        }
        passed
    }

    fn may_be_pid_line(&self) -> bool {
        let prefix = command::PID_LINE.as_bytes();
        match self.line.strip_prefix(prefix) {
            Some(pid) => pid.len() <= MAX_PID,
            None => prefix.starts_with(&self.line),
        }
    }

    /// Returns buffered output at the end of the stream.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_line_is_removed() {
        let mut filter = PidLineFilter::default();
        assert_eq!(filter.strip(b"hello\npixels-pro"), b"hello\n");
        assert_eq!(
            filter.strip(b"cess 42\r\nx\npixels-process 7\n"),
            b"x\npixels-process 7\n"
        );
        assert_eq!(filter.pid, Some(42));
        assert_eq!(filter.strip(b"more"), b"more");
        let mut none = PidLineFilter::default();
        assert_eq!(none.strip(b"pixels-pro"), b"");
        assert_eq!(none.rest(), b"pixels-pro");
        // The filter must pass other lines before they end.
        let mut long = PidLineFilter::default();
        assert_eq!(long.strip(b"no line"), b"no line");
        assert_eq!(long.strip(b" pixels-process 7"), b" pixels-process 7");
        assert_eq!(long.strip(b"\npixels-process 12345678901"), b"\n");
        assert_eq!(long.strip(b"2"), b"pixels-process 123456789012");
        assert_eq!(long.strip(b"\npixels-process 8\nx"), b"\nx");
        assert_eq!((long.pid, long.rest()), (Some(8), Vec::new()));
    }
}
