//! Addresses and ports of a server, for the lines of attempts.

use std::collections::BTreeMap;

use super::row::Sender;
use crate::model::{Error, Result};

/// The error is the reason why an attempt is impossible on this server.
pub type Filled<T> = std::result::Result<T, String>;

/// Values for the words in braces: of all senders, or of one sender.
#[derive(Debug, Default)]
pub struct Facts(BTreeMap<(Option<u8>, &'static str), Vec<String>>);

impl Facts {
    pub fn set(&mut self, word: &'static str, values: impl IntoIterator<Item = impl ToString>) {
        let values = values.into_iter().map(|value| value.to_string());
        self.0.insert((None, word), values.collect());
    }

    pub fn set_of(
        &mut self,
        sender: Sender,
        word: &'static str,
        values: impl IntoIterator<Item = impl ToString>,
    ) {
        let values = values.into_iter().map(|value| value.to_string());
        self.0.insert((Some(sender as u8), word), values.collect());
    }

    /// Replaces the words in braces. Returns one line for each value of a word
    /// with several values, and fails with the name of a word without value.
    pub fn fill(&self, sender: Sender, line: &str) -> Filled<Vec<String>> {
        let Some((before, rest)) = line.split_once('{') else {
            return Ok(vec![line.to_owned()]);
        };
        let (word, after) = rest.split_once('}').unwrap_or((rest, ""));
        let of_sender = self.0.get(&(Some(sender as u8), word));
        let values = of_sender.or_else(|| self.0.get(&(None, word)));
        let values = values.filter(|values| !values.is_empty());
        let values = values.ok_or_else(|| format!("unknown on this server: {word}"))?;
        let mut lines = Vec::new();
        for value in values {
            lines.extend(self.fill(sender, &format!("{before}{value}{after}"))?);
        }
        Ok(lines)
    }

    /// Like [`fill`](Self::fill), for lines whose words have one value.
    pub fn fill_one(&self, sender: Sender, line: &str) -> Result<String> {
        let lines = self.fill(sender, line).map_err(Error::Protocol)?;
        Ok(lines.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_replaced_by_the_facts_of_the_sender() {
        let mut facts = Facts::default();
        facts.set("host", ["192.0.2.1", "192.0.2.2"]);
        facts.set("none", [""; 0]);
        facts.set_of(Sender::Open, "own", ["10.0.0.2"]);
        let fill = |line: &str| facts.fill(Sender::Open, line);
        assert_eq!(fill("x {own} y {own}").unwrap(), ["x 10.0.0.2 y 10.0.0.2"]);
        assert_eq!(fill("{host} 1").unwrap(), ["192.0.2.1 1", "192.0.2.2 1"]);
        assert!(fill("{none}").is_err());
        assert!(facts.fill(Sender::Restricted, "{own}").is_err());
    }
}
