//! Draws a recording: every line appears, and goes, when it did. Where nothing
//! moves, the end of the session is shown.

use std::fmt::Write as _;
use std::time::Duration;

use crate::screen::{Row, Screen, Style};

const LINE: usize = 19;
const LETTER: f64 = 8.4;
const MARGIN: usize = 16;
/// Room for the window's title bar.
const TOP: usize = 38;

/// A line as it was for a while.
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
    /// Notes what is on the screen from now on.
    pub fn note(&mut self, at: Duration, screen: &Screen) {
        for (row, text) in screen.rows.iter().enumerate() {
            let current = self
                .moments
                .iter_mut()
                .rfind(|one| one.row == row && one.until.is_none());
            match current {
                Some(current) if current.text == *text => continue,
                Some(current) => current.until = Some(at),
                None => {}
            }
            let from = at;
            self.moments.push(Moment {
                row,
                text: text.clone(),
                from,
                until: None,
            });
        }
        // What was never seen need not be drawn.
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
            if one.text.iter().all(|(c, _)| *c == ' ') {
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

fn spans(row: &Row) -> String {
    row.chunk_by(|(_, a), (_, b)| a == b)
        .map(|run| {
            let text: String = run.iter().map(|(c, _)| *c).collect();
            match class(run[0].1) {
                class if class.is_empty() => escaped(&text),
                class => format!("<tspan class=\"{class}\">{}</tspan>", escaped(&text)),
            }
        })
        .collect()
}

fn class(style: Style) -> String {
    let mut names = Vec::new();
    if style.bold {
        names.push("b".to_owned());
    }
    if style.dim {
        names.push("d".to_owned());
    }
    names.extend(style.colour.map(|number| format!("c{number}")));
    names.join(" ")
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
