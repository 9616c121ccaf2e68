//! Removes control characters from text of servers, pixels and files. Such
//! characters could move a terminal's cursor or change the terminal's title.

use std::borrow::Cow;

/// Returns `text` without control characters except line feeds. Replaces tabs
/// with spaces, and other control characters with U+FFFD.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| c.is_control() && c != '\n';
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let replace = |c: char| match c {
        '\t' => ' ',
        c if is_unsafe(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    Cow::Owned(text.chars().map(replace).collect())
}

#[cfg(test)]
mod tests {
    use super::sanitize;

    #[test]
    fn sanitize_control_characters_replaced() {
        assert_eq!(sanitize("b\u{fc}cher\n-> x"), "b\u{fc}cher\n-> x");
        assert_eq!(
            sanitize("a\tb\x1b[2J\u{9b}1m\r"),
            "a b\u{fffd}[2J\u{fffd}1m\u{fffd}"
        );
    }
}
