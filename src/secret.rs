//! Text that must not reach a terminal, a log or an error message.

use std::fmt;

/// A secret value. It prints as `***` and cannot be serialised; the value
/// itself is reached by [`Secret::expose`] alone, at the place that sends it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// What stands in for a secret wherever one would be shown.
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
    fn prints_as_a_mask_however_it_is_asked() {
        let secret = Secret::new("1-abc");
        assert_eq!(
            format!("{secret} {secret:?} {:#?}", Some(&secret))
                .matches("***")
                .count(),
            3
        );
        assert!(!format!("{secret} {secret:?} {:#?}", Some(&secret)).contains("abc"));
        assert_eq!(secret.expose(), "1-abc");
    }
}
