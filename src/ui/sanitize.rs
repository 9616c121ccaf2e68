//! Text that others have a say in, for a terminal, which obeys more than
//! letters: servers, pixels and files must not move its cursor or name it.

use std::borrow::Cow;

/// The same text with lines in it, and no other control characters.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && c != '\n';
    if !text.contains(commands) {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| match c {
        '\t' => ' ',
        c if commands(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    Cow::Owned(text.chars().map(shown).collect())
}

#[cfg(test)]
mod tests {
    use super::sanitize;

    #[test]
    fn terminals_are_told_nothing_but_text() {
        assert_eq!(sanitize("b\u{fc}cher\n-> x"), "b\u{fc}cher\n-> x");
        assert_eq!(
            sanitize("a\tb\x1b[2J\u{9b}1m\r"),
            "a b\u{fffd}[2J\u{fffd}1m\u{fffd}"
        );
    }
}
