//! Configures a script that a container runs instead of init.
//!
//! LXC splits `lxc.init.cmd` at white space and ignores quotes (observed on LXC
//! 5 and 6). The script is therefore passed as one argument per word, which the
//! shell joins and evaluates.

use crate::model::FirstBoot;

/// The configuration key. Restricted projects do not allow this key.
pub(super) const KEY: &str = "raw.lxc";

/// Returns the line of [`KEY`] with the script.
pub(super) fn config(first_boot: &FirstBoot) -> String {
    let mut line = String::from("lxc.init.cmd = /bin/sh -c eval${IFS}\"$*\" sh");
    for (name, value) in &first_boot.variables {
        line.push_str(&format!(" {name}={value};"));
    }
    line + " " + &one_line(&first_boot.script)
}

/// Returns a script as one line without comments.
pub(super) fn one_line(script: &str) -> String {
    let lines = script.lines().map(str::trim);
    let code: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    code.join(" ")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn init_command_evaluates_the_script() {
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
