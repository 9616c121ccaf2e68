//! Parses port arguments of the form `[LOCAL:]PORT`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A local port, and the destination port in the pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The local port. 0 selects a free port.
    pub local: u16,
    pub remote: u16,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| -> Result<u16, String> {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let number = digits.then(|| text.parse().ok()).flatten();
            number.ok_or_else(|| "expected PORT or LOCAL:PORT, numbers up to 65535".to_owned())
        };
        let (local, remote) = match text.split_once(':') {
            Some((local, remote)) => (number(local)?, number(remote)?),
            None => (number(text)?, number(text)?),
        };
        if remote == 0 {
            return Err("the port in the pixel must not be 0".into());
        }
        Ok(Self { local, remote })
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.local, self.remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_number_is_used_for_both_ports() {
        let parse = |text: &str| text.parse::<Port>().map(|p| (p.local, p.remote));
        assert_eq!(parse("8080"), Ok((8080, 8080)));
        assert_eq!(parse("0:80"), Ok((0, 80)));
        assert_eq!(parse("81:80"), Ok((81, 80)));
        for bad in ["", "0", "1:0", "65536", ":80", "80:", "1:2:3", "+1", "a"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
