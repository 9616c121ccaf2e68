//! Names of environment variables.

/// Whether `name` matches `[A-Za-z_][A-Za-z0-9_]*`, which every shell accepts.
pub fn is_env_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::is_env_name;

    #[test]
    fn env_name_digits_first_and_symbols_rejected() {
        for name in ["A", "_", "a_1", "PATH"] {
            assert!(is_env_name(name), "{name}");
        }
        for name in ["", "1A", "A B", "A-B", "A=", "Ä"] {
            assert!(!is_env_name(name), "{name}");
        }
    }
}
