//! Text that cannot control a terminal.
//!
//! Pixels, servers, files and arguments contain text that others control. A
//! terminal would execute its escape sequences, and bidirectional or invisible
//! characters would display it as different text.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Serialize;

/// Returns `text` with U+FFFD for control, bidirectional and invisible
/// characters. Keeps line feeds, and replaces tabs with spaces.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.contains(|c| c != '\n' && is_hidden(c)) {
        Cow::Owned(replaced(text, '\n'))
    } else {
        Cow::Borrowed(text)
    }
}

/// Like [`plain`], for text that must stay on its line: replaces line feeds too.
pub fn plain_line(text: &str) -> Cow<'_, str> {
    if text.contains(is_hidden) {
        Cow::Owned(replaced(text, char::REPLACEMENT_CHARACTER))
    } else {
        Cow::Borrowed(text)
    }
}

/// Encodes a value as JSON on one line, with `\u` escapes for the characters that
/// [`plain_line`] replaces. The decoded value is unchanged.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    if !text.contains(is_hidden) {
        return Ok(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    Ok(escaped)
}

fn replaced(text: &str, line_feed: char) -> String {
    let mut previous = '\0';
    let replace = |c| {
        let shown = match c {
            '\n' => line_feed,
            '\t' => ' ',
            // Displays the symbol before it as an emoji.
            '\u{fe0f}' if is_symbol(previous) => c,
            c if is_hidden(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        previous = c;
        shown
    };
    text.chars().map(replace).collect()
}

/// Control characters, bidirectional controls, line separators, and the
/// characters with Unicode's property `Default_Ignorable_Code_Point`.
fn is_hidden(c: char) -> bool {
    match c {
        ' '..='~' => false,
        '\u{ad}'
        | '\u{34f}'
        | '\u{61c}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}' => true,
        c => c.is_control(),
    }
}

fn is_symbol(c: char) -> bool {
    matches!(c, '\u{203c}'..='\u{3299}' | '\u{1f000}'..='\u{1faff}') && !is_hidden(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_controls_the_terminal_or_is_invisible() {
        for c in '\0'..=char::MAX {
            let text = format!("a{c}b");
            let shown = plain_line(&text);
            assert_eq!(shown.chars().count(), 3, "{c:?}");
            assert!(!shown.contains(is_hidden), "{c:?}");
        }
        for (first, last) in [
            ('\0', '\u{1f}'),
            ('\u{7f}', '\u{9f}'),
            ('\u{200b}', '\u{200f}'),
            ('\u{2028}', '\u{202e}'),
            ('\u{2060}', '\u{206f}'),
            ('\u{e0001}', '\u{e007f}'),
        ] {
            for c in first..=last {
                let text = c.to_string();
                assert_ne!(plain_line(&text), text, "{c:?}");
                assert_eq!(plain(&text) == text, c == '\n', "{c:?}");
            }
        }
        let words = "Bücher e\u{301} данные 文件 नमस्ते 😀 — ✔\u{fe0f} €";
        assert_eq!(plain_line(words), words);
    }

    #[test]
    fn plain_keeps_lines_and_plain_line_does_not() {
        assert_eq!(plain("b\u{fc}cher\n-> x"), "b\u{fc}cher\n-> x");
        assert_eq!(
            plain("a\tb\x1b[2J\u{9b}1m\r\n\u{202e}\u{fe0f}"),
            "a b\u{fffd}[2J\u{fffd}1m\u{fffd}\n\u{fffd}\u{fffd}"
        );
        assert_eq!(plain_line("a\nb"), "a\u{fffd}b");
    }

    #[test]
    fn json_is_escaped_and_decodes_to_the_same_value() {
        let value = "a\x1b\u{7f}\u{9b}\u{202e}\u{e0041}\"\\\n\u{fc}";
        let text = json(&value).unwrap();
        assert_eq!(
            text,
            "\"a\\u001b\\u007f\\u009b\\u202e\\udb40\\udc41\\\"\\\\\\n\u{fc}\""
        );
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }
}
