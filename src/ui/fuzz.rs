//! Fuzz tests of printed text. Servers and pixels control parts of the text,
//! and control characters would change the terminal.

use serde::Serialize;

use super::{Row, table};
use crate::fuzz::{fuzz, text};
use crate::plain::plain;

#[derive(Serialize)]
struct Line(Vec<String>);

impl Row for Line {
    const HEADERS: &'static [&'static str] = &["NAME", "LAST LINE"];

    fn cells(&self) -> Vec<String> {
        self.0.clone()
    }
}

#[test]
fn tables() {
    let words = [
        "\x1b]0;title\x07",
        "\x1b[2J",
        "\u{9b}",
        "\r",
        "\t",
        "\u{1}",
        "\u{200b}",
        "\u{202e}",
        "\u{2714}\u{fe0f}",
        "\n",
    ];
    fuzz("tables", 800, &words, |bytes| {
        let text = text(bytes);
        let cells = text.split('\u{1}').map(str::to_owned).collect::<Vec<_>>();
        let rows: Vec<Line> = cells.chunks(2).map(|pair| Line(pair.to_vec())).collect();
        let shown = table(&rows);
        assert_eq!(plain(&shown), shown);
        shown.lines().count().min(5)
    });
}
