//! A script in place of init, by the container's own configuration.
//!
//! `lxc.init.cmd` is split at white space without regard to quotes (LXC 5 and
//! 6, observed), so the script travels as words that the shell joins again.

use crate::model::FirstBoot;

/// The key that carries it. Restricted projects refuse it.
pub(super) const KEY: &str = "raw.lxc";

/// The value of [`KEY`]: one line, comments left out.
pub(super) fn config(first: &FirstBoot) -> String {
    let mut line = String::from("lxc.init.cmd = /bin/sh -c eval${IFS}\"$*\" sh");
    for (name, value) in &first.variables {
        line.push_str(&format!(" {name}={value};"));
    }
    for code in first.script.lines().map(str::trim) {
        if !code.is_empty() && !code.starts_with('#') {
            line.push(' ');
            line.push_str(code);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_words_make_the_same_script_again() {
        let first = FirstBoot {
            variables: vec![("a".into(), "x-1".into())],
            script: "#!/bin/sh\n# not this\nif [ \"$a\" = x-1 ]; then\n    echo \"yes  $a\";\nfi\n"
                .into(),
        };
        let line = config(&first);
        assert!(!line.contains('\n'));
        let words: Vec<&str> = line
            .strip_prefix("lxc.init.cmd = ")
            .unwrap()
            .split_whitespace()
            .collect();
        let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "yes x-1\n");
    }
}
