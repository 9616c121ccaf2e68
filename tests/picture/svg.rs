//! Draws a recording as an animated SVG. Without animation, the picture shows
//! the end of the session.

use std::fmt::Write as _;
use std::time::Duration;

use vt100::{Cell, Color, Screen};

const LINE: usize = 19;
const LETTER: f64 = 8.4;
const MARGIN: usize = 16;
/// Height of the title bar.
const TOP: usize = 38;

/// The cells of one line, without trailing blanks.
type Row = Vec<Cell>;

/// A line that was visible for some time.
struct Moment {
    row: usize,
    text: Row,
    from: Duration,
    until: Option<Duration>,
}

#[derive(Default)]
pub struct Recording {
    moments: Vec<Moment>,
}

impl Recording {
    /// Records the screen as visible from `at` until the next call.
    pub fn note(&mut self, at: Duration, screen: &Screen) {
        for (row, text) in rows(screen).into_iter().enumerate() {
            let current = self
                .moments
                .iter_mut()
                .rfind(|one| one.row == row && one.until.is_none());
            match current {
                Some(current) if current.text == text => continue,
                Some(current) => current.until = Some(at),
                None if text.is_empty() => continue,
                None => {}
            }
            self.moments.push(Moment {
                row,
                text,
                from: at,
                until: None,
            });
        }
        // Lines that were never visible need not be drawn.
        self.moments.retain(|one| one.until != Some(one.from));
    }

    pub fn svg(&self, columns: usize, title: &str) -> String {
        let rows = self.moments.iter().map(|one| one.row + 1).max();
        let width = (columns as f64 * LETTER) as usize + 2 * MARGIN;
        let height = TOP + rows.unwrap_or(0) * LINE + MARGIN;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" xml:space=\"preserve\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">\n<title>{}</title>\n{LOOK}\
             <rect class=\"window\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\n",
            escaped(title)
        );
        for (at, kind) in [(18, "r"), (36, "y"), (54, "g")] {
            let _ = writeln!(
                out,
                "<circle class=\"{kind}\" cx=\"{at}\" cy=\"18\" r=\"5\"/>"
            );
        }
        for one in &self.moments {
            if one.text.is_empty() {
                continue;
            }
            let y = TOP + one.row * LINE + LINE / 2;
            let begin = format!("b 1ms {:.2}s both", one.from.as_secs_f64());
            let (hidden, animation) = match one.until {
                None => ("", begin),
                Some(end) => (
                    " visibility=\"hidden\"",
                    format!("{begin},e 1ms {:.2}s forwards", end.as_secs_f64()),
                ),
            };
            let _ = writeln!(
                out,
                "<text x=\"{MARGIN}\" y=\"{y}\"{hidden} style=\"animation:{animation}\">{}</text>",
                spans(&one.text)
            );
        }
        out.push_str("</svg>\n");
        out
    }
}

const LOOK: &str = "<style>
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;\
fill:#24292f;white-space:pre}
.window{fill:#f6f8fa;stroke:#d0d7de}.r{fill:#ff5f57}.y{fill:#febc2e}.g{fill:#28c840}
.b{font-weight:bold}.d{fill:#6e7781}.c31{fill:#cf222e}.c32{fill:#1a7f37}.c33{fill:#9a6700}
.c34{fill:#0969da}.c35{fill:#8250df}.c36{fill:#1b7c83}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.window{fill:#0d1117;stroke:#30363d}
.d{fill:#8d96a0}.c31{fill:#ff7b72}.c32{fill:#3fb950}.c33{fill:#d29922}.c34{fill:#58a6ff}
.c35{fill:#bc8cff}.c36{fill:#39c5cf}}
@keyframes b{from{visibility:hidden}to{visibility:visible}}
@keyframes e{to{visibility:hidden}}
@media (prefers-reduced-motion:reduce){text{animation:none!important}}
</style>
";

fn rows(screen: &Screen) -> Vec<Row> {
    let (height, width) = screen.size();
    let row = |y| {
        let cells = (0..width.get()).filter_map(|x| screen.cell(y, x));
        let mut row: Row = cells.cloned().collect();
        let end = row.iter().rposition(|cell| !text(cell).trim().is_empty());
        row.truncate(end.map_or(0, |end| end + 1));
        row
    };
    (0..height.get()).map(row).collect()
}

fn text(cell: &Cell) -> &str {
    match cell.contents() {
        "" if !cell.is_wide_continuation() => " ",
        text => text,
    }
}

fn spans(row: &[Cell]) -> String {
    row.chunk_by(|a, b| class(a) == class(b))
        .map(|run| {
            let text = escaped(&run.iter().map(text).collect::<String>());
            match class(&run[0]) {
                class if class.is_empty() => text,
                class => format!("<tspan class=\"{class}\">{text}</tspan>"),
            }
        })
        .collect()
}

/// CSS classes of a cell's style, see [`LOOK`].
fn class(cell: &Cell) -> String {
    let mut names = Vec::new();
    if cell.bold() {
        names.push("b".to_owned());
    }
    if cell.dim() {
        names.push("d".to_owned());
    }
    if let Color::Idx(color @ 1..=6) = cell.fgcolor() {
        names.push(format!("c{}", 30 + color));
    }
    names.join(" ")
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
