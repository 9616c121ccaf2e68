//! Text that must not appear on a terminal, in logs or in error messages.

use std::fmt;

/// A secret value. Formatting prints `***`, and serialization is not supported.
/// Use [`Secret::expose`] only to send the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Text printed instead of a secret.
    pub const MASK: &'static str = "***";

    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::MASK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_and_debug_show_the_mask() {
        let secret = Secret::new("1-abc");
        let text = format!("{secret} {secret:?} {:#?}", Some(&secret));
        assert_eq!(text.matches("***").count(), 3);
        assert!(!text.contains("abc"));
        assert_eq!(secret.expose(), "1-abc");
    }
}
