//! A terminal's screen, as far as the recorded programs use one.

/// How a character is shown: the numbers of SGR that are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    pub bold: bool,
    pub dim: bool,
    /// 31 to 36.
    pub colour: Option<u8>,
}

pub type Row = Vec<(char, Style)>;

#[derive(Debug, Default)]
pub struct Screen {
    pub rows: Vec<Row>,
    line: usize,
    column: usize,
    style: Style,
    /// What came of an escape sequence, or of a character, that is not whole yet.
    pending: Vec<u8>,
}

impl Screen {
    pub fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        while let Some(used) = self.step() {
            self.pending.drain(..used);
        }
    }

    /// Deals with the first thing pending; `None` when more has to come.
    fn step(&mut self) -> Option<usize> {
        let pending = std::mem::take(&mut self.pending);
        let used = self.one(&pending);
        self.pending = pending;
        used
    }

    fn one(&mut self, bytes: &[u8]) -> Option<usize> {
        match bytes {
            [] | [0x1b] => None,
            [0x1b, b'[', rest @ ..] => {
                let end = rest.iter().position(|b| (0x40..=0x7e).contains(b))?;
                self.control(&String::from_utf8_lossy(&rest[..end]), rest[end]);
                Some(2 + end + 1)
            }
            // A title or another word to the terminal, up to BEL or ST.
            [0x1b, b']', rest @ ..] => {
                let end = rest.iter().position(|b| matches!(b, 7 | 0x1b))?;
                let more = usize::from(rest[end] == 0x1b);
                (rest.len() > end + more).then_some(2 + end + 1 + more)
            }
            [0x1b, _, ..] => Some(2),
            [b'\r', ..] => {
                self.column = 0;
                Some(1)
            }
            [b'\n', ..] => {
                self.line += 1;
                Some(1)
            }
            [8, ..] => {
                self.column = self.column.saturating_sub(1);
                Some(1)
            }
            [0..0x20 | 0x7f, ..] => Some(1),
            [first, ..] => {
                let length = match first {
                    0..0x80 => 1,
                    0x80..0xe0 => 2,
                    0xe0..0xf0 => 3,
                    0xf0.. => 4,
                };
                let text = String::from_utf8_lossy(bytes.get(..length)?).into_owned();
                text.chars().for_each(|c| self.put(c));
                Some(length)
            }
        }
    }

    fn put(&mut self, c: char) {
        let (column, style) = (self.column, self.style);
        let row = self.row();
        while row.len() <= column {
            row.push((' ', Style::default()));
        }
        row[column] = (c, style);
        self.column += 1;
    }

    fn row(&mut self) -> &mut Row {
        while self.rows.len() <= self.line {
            self.rows.push(Row::new());
        }
        &mut self.rows[self.line]
    }

    fn control(&mut self, arguments: &str, word: u8) {
        let number = |default: usize| arguments.parse().unwrap_or(default);
        match word {
            b'A' => self.line = self.line.saturating_sub(number(1)),
            b'B' => self.line += number(1),
            b'C' => self.column += number(1),
            b'D' => self.column = self.column.saturating_sub(number(1)),
            b'G' => self.column = number(1).saturating_sub(1),
            b'K' => {
                let column = self.column;
                match number(0) {
                    0 => self.row().truncate(column),
                    _ => self.row().clear(),
                }
            }
            b'm' => arguments.split(';').for_each(|one| self.restyle(one)),
            _ => {}
        }
    }

    fn restyle(&mut self, number: &str) {
        match number.parse().unwrap_or(0) {
            0 => self.style = Style::default(),
            1 => self.style.bold = true,
            2 => self.style.dim = true,
            22 => (self.style.bold, self.style.dim) = (false, false),
            colour @ 31..=36 => self.style.colour = Some(colour),
            39 => self.style.colour = None,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8]) -> Vec<String> {
        let mut screen = Screen::default();
        // Cut anywhere, it comes to the same.
        bytes.iter().for_each(|byte| screen.feed(&[*byte]));
        let text = |row: &Row| row.iter().map(|(c, _)| *c).collect::<String>();
        screen.rows.iter().map(text).collect()
    }

    #[test]
    fn what_is_overwritten_and_wiped_is_gone() {
        assert_eq!(shown(b"one\r\ntwo\rT"), ["one", "Two"]);
        assert_eq!(shown(b"busy\r\x1b[2Kdone"), ["done"]);
        assert_eq!(shown(b"a\r\nbusy\x1b[1A\r\x1b[Kc"), ["c", "busy"]);
        assert_eq!(shown(b"\x1b]0;title\x07x\x1b[?25l\x08y"), ["y"]);
        assert_eq!(shown("é ⠋ …".as_bytes()), ["é ⠋ …"]);
    }

    #[test]
    fn styles_end_where_they_are_told() {
        let mut screen = Screen::default();
        screen.feed(b"\x1b[1;32ma\x1b[0mb\x1b[2mc\x1b[22md");
        let styles: Vec<Style> = screen.rows[0].iter().map(|(_, style)| *style).collect();
        assert!(styles[0].bold && styles[0].colour == Some(32));
        assert_eq!(styles[1], Style::default());
        assert!(styles[2].dim && !styles[3].dim);
    }
}
