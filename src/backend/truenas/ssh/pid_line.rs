//! What the shell that becomes a command says first: the number of its process,
//! by which it is reached with signals.

use super::command;

/// Digits of a process's number, and a carriage return.
const NUMBER: usize = 11;

/// Takes the line that tells the command's process out of a stream.
#[derive(Default)]
pub(super) struct PidLineFilter {
    pub process: Option<u32>,
    /// A line that is not whole yet and may be the one.
    line: Vec<u8>,
    /// The line that is under way is another.
    other: bool,
}

impl PidLineFilter {
    pub fn strip(&mut self, data: &[u8]) -> Vec<u8> {
        if self.process.is_some() {
            return data.to_vec();
        }
        let mut passed = Vec::new();
        for (at, byte) in data.iter().enumerate() {
            if self.other {
                passed.push(*byte);
                self.other = *byte != b'\n';
                continue;
            }
            self.line.push(*byte);
            if *byte != b'\n' {
                // It may never end.
                if !self.may_be_pid_line() {
                    passed.append(&mut self.line);
                    self.other = true;
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let text = String::from_utf8_lossy(&line);
            let process = text.trim_end().strip_prefix(command::PROCESS);
            self.process = process.and_then(|number| number.parse().ok());
            if self.process.is_some() {
                passed.extend_from_slice(&data[at + 1..]);
                break;
            }
            // Something the pixel's own shell has to say.
            passed.extend(line);
        }
        passed
    }

    fn may_be_pid_line(&self) -> bool {
        let mark = command::PROCESS.as_bytes();
        match self.line.strip_prefix(mark) {
            Some(number) => number.len() <= NUMBER,
            None => mark.starts_with(&self.line),
        }
    }

    /// What was held back of a stream that has ended.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_taken_out_of_the_stream() {
        let mut told = PidLineFilter::default();
        assert_eq!(told.strip(b"hello\npixels-pro"), b"hello\n");
        assert_eq!(
            told.strip(b"cess 42\r\nx\npixels-process 7\n"),
            b"x\npixels-process 7\n"
        );
        assert_eq!(told.process, Some(42));
        assert_eq!(told.strip(b"more"), b"more");
        let mut none = PidLineFilter::default();
        assert_eq!(none.strip(b"pixels-pro"), b"");
        assert_eq!(none.rest(), b"pixels-pro");
        // What cannot be the line is not held back until it ends.
        let mut long = PidLineFilter::default();
        assert_eq!(long.strip(b"no line"), b"no line");
        assert_eq!(long.strip(b" pixels-process 7"), b" pixels-process 7");
        assert_eq!(long.strip(b"\npixels-process 12345678901"), b"\n");
        assert_eq!(long.strip(b"2"), b"pixels-process 123456789012");
        assert_eq!(long.strip(b"\npixels-process 8\nx"), b"\nx");
        assert_eq!((long.process, long.rest()), (Some(8), Vec::new()));
    }
}
