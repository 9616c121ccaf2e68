//! Quoting for POSIX shells.

/// `word` as text that a POSIX shell reads as exactly this one word. Words
/// without special characters are returned unchanged.
pub fn shell_quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=+,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
