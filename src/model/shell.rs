//! Quotes words for POSIX shells.

/// Quotes `word` so that a POSIX shell reads exactly this word. Returns words
/// without special characters unchanged.
pub fn shell_quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
