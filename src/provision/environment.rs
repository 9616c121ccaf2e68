//! Environment variables of the settings, for all processes of a pixel. The
//! variables are written to `/etc/environment` for PAM (ssh, sudo, su) and to
//! the login profile.

use std::collections::BTreeMap;

/// Returns lines for `/etc/environment`, and variables that it cannot contain.
///
/// PAM does not expand or unescape a value, removes one pair of quotes around
/// it, and ends the line at the first `#`, quoted or not (observed with
/// Linux-PAM 1.5). Values with `#` or a line break can therefore not be
/// written.
pub(super) fn pam(variables: &BTreeMap<String, String>) -> (String, Vec<String>) {
    let mut lines = String::new();
    let mut omitted = Vec::new();
    for (key, value) in variables {
        if value.contains(['#', '\n', '\r']) {
            omitted.push(key.clone());
        } else {
            lines.push_str(&format!("{key}=\"{value}\"\n"));
        }
    }
    (lines, omitted)
}

/// Returns a profile script that exports all variables.
pub(super) fn profile(variables: &BTreeMap<String, String>) -> String {
    let mut script = String::from("# Environment variables of the pixels settings.\n");
    for (key, value) in variables {
        let quoted = value.replace('\'', "'\\''");
        script.push_str(&format!("export {key}='{quoted}'\n"));
    }
    script
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn pam_omits_values_with_hash_or_line_break() {
        let (lines, omitted) = pam(&variables(&[
            ("A", "two words"),
            ("B", "x#y"),
            ("C", "$HOME \"q\" 's'"),
            ("D", "a\nb"),
        ]));
        assert_eq!(lines, "A=\"two words\"\nC=\"$HOME \"q\" 's'\"\n");
        assert_eq!(omitted, ["B", "D"]);
    }

    #[test]
    fn shell_reads_values_of_profile_unchanged() {
        let value = "two  words $HOME \"q\" 's' # \\ `x`\nline";
        let script = profile(&variables(&[("TRICKY", value)]));
        let output = Command::new("sh")
            .args(["-c", &format!("{script}printf %s \"$TRICKY\"")])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), value);
    }
}
