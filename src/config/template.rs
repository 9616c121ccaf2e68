//! Text in which `$NAME` and `${NAME}` stand for variables and `$$` for a dollar.

use std::fmt;

/// A parsed text. It may hold a secret, so it prints as a mask.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Variable(String),
}

impl Template {
    /// Reads a text, or says what is wrong with it. A dollar that begins
    /// neither form is itself.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('$') {
                literal.push('$');
                rest = after;
                continue;
            }
            let (name, after) = if let Some(braced) = after.strip_prefix('{') {
                let (name, after) = braced
                    .split_once('}')
                    .ok_or("has a ${ without its }; write $$ for a dollar")?;
                if !is_name(name) {
                    return Err(
                        "has a ${...} around what is no variable's name; write $$ for a dollar",
                    );
                }
                (name, after)
            } else {
                after.split_at(name_length(after))
            };
            rest = after;
            if name.is_empty() {
                literal.push('$');
                continue;
            }
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Variable(name.to_owned()));
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Self(pieces))
    }

    /// Whether the text holds nothing of its own, so that it can be shown.
    pub fn is_references_only(&self) -> bool {
        self.0
            .iter()
            .all(|piece| matches!(piece, Piece::Variable(_)))
    }

    /// The text with every variable replaced by what `lookup` gives for it.
    pub fn expand<E>(&self, lookup: impl Fn(&str) -> Result<String, E>) -> Result<String, E> {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Variable(name) => out.push_str(&lookup(name)?),
            }
        }
        Ok(out)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::secret::Secret::MASK)
    }
}

/// Whether this is the name of a variable: `[A-Za-z_][A-Za-z0-9_]*`.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && name_length(text) == text.len()
}

fn name_length(text: &str) -> usize {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return 0;
    }
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_dollars_kept() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("$HOME/bin", "<HOME>/bin"),
            ("${HOME}x$A_1-$B", "<HOME>x<A_1>-<B>"),
            ("$$HOME", "$HOME"),
            ("$$$HOME", "$<HOME>"),
            ("pa$5 $ $", "pa$5 $ $"),
            ("${A}${B}", "<A><B>"),
            ("ä$ä", "ä$ä"),
        ] {
            let template = Template::parse(text).unwrap();
            let expanded = template.expand(|name| Ok::<_, ()>(format!("<{name}>")));
            assert_eq!(expanded.unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn broken_references_are_refused() {
        for text in ["${HOME", "${}", "${1}", "${a b}", "x${HOME-y}"] {
            let error = Template::parse(text).unwrap_err();
            assert!(error.contains("write $$"), "{text}: {error}");
        }
    }

    #[test]
    fn the_text_itself_is_not_shown() {
        let template = Template::parse("s3cret$A").unwrap();
        assert_eq!(format!("{template:?}"), "***");
        assert!(!template.is_references_only());
        assert!(Template::parse("$A${B}").unwrap().is_references_only());
    }
}
