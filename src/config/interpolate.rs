//! References to variables in strings: `$NAME` and `${NAME}`.

use crate::model::is_env_name;

/// Replaces each reference by the result of `lookup`, and `$$` by a dollar.
/// Other dollar signs are kept. Fails with the error of `lookup`, or for a
/// syntax error with that of `malformed`, whose argument reads after a subject.
pub(super) fn interpolate<E>(
    text: &str,
    lookup: impl Fn(&str) -> Result<String, E>,
    malformed: impl Fn(&'static str) -> E,
) -> Result<String, E> {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        result.push_str(before);
        let name;
        if let Some(braced) = after.strip_prefix('{') {
            let unclosed = || malformed("has ${ without }; write $$ for a dollar");
            (name, rest) = braced.split_once('}').ok_or_else(unclosed)?;
            if !is_env_name(name) {
                return Err(malformed(
                    "has an invalid name in ${}; write $$ for a dollar",
                ));
            }
        } else {
            let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            (name, rest) = after.split_at(end.unwrap_or(after.len()));
        }
        if is_env_name(name) {
            result.push_str(&lookup(name)?);
        } else {
            result.push('$');
            result.push_str(name);
            if name.is_empty() {
                rest = rest.strip_prefix('$').unwrap_or(rest);
            }
        }
    }
    result.push_str(rest);
    Ok(result)
}

/// Whether the text consists of references only, and so contains no secret.
pub(super) fn is_references_only(text: &str) -> bool {
    interpolate(text, |_| Ok(String::new()), |_| ()).is_ok_and(|literal| literal.is_empty())
}
