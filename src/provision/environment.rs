//! Variables of the user's for every process of a pixel, in the two forms that
//! reach one: `/etc/environment` (PAM: ssh, sudo, su) and the login profile.

use std::collections::BTreeMap;

/// Lines for `/etc/environment`, and the names PAM cannot carry.
///
/// PAM takes a line's value as it stands, without expansion or escapes, strips
/// one pair of quotes around it, and ends the line at the first `#`, quoted or
/// not (Linux-PAM 1.5, observed). So a `#` and a line break cannot be written.
pub(super) fn pam(variables: &BTreeMap<String, String>) -> (String, Vec<String>) {
    let mut lines = String::new();
    let mut left_out = Vec::new();
    for (key, value) in variables {
        if value.contains(['#', '\n', '\r']) {
            left_out.push(key.clone());
        } else {
            lines.push_str(&format!("{key}=\"{value}\"\n"));
        }
    }
    (lines, left_out)
}

/// A profile script that exports them all.
pub(super) fn profile(variables: &BTreeMap<String, String>) -> String {
    let mut script = String::from("# Variables of every login, written by pixels.\n");
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

    fn variables(of: &[(&str, &str)]) -> BTreeMap<String, String> {
        of.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn what_pam_cannot_carry_is_left_out_and_named() {
        let (lines, left_out) = pam(&variables(&[
            ("A", "two words"),
            ("B", "x#y"),
            ("C", "$HOME \"q\" 's'"),
            ("D", "a\nb"),
        ]));
        assert_eq!(lines, "A=\"two words\"\nC=\"$HOME \"q\" 's'\"\n");
        assert_eq!(left_out, ["B", "D"]);
    }

    #[test]
    fn a_shell_reads_every_value_back() {
        let value = "two  words $HOME \"q\" 's' # \\ `x`\nline";
        let script = profile(&variables(&[("TRICKY", value)]));
        let output = Command::new("sh")
            .args(["-c", &format!("{script}printf %s \"$TRICKY\"")])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), value);
    }
}
