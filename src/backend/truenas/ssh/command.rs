//! The one place where a command becomes text for the shell on the other side.

use crate::model::{Error, ExecRequest, Ids, Result, shell_quote};

/// Variables travel beside the command under their names with this prefix:
/// arguments are for everybody in the pixel to read.
pub(super) const PREFIX: &str = "PIXELS_E_";
/// Comes first; whether it is taken tells of the others.
pub(super) const MARK: &str = "PIXELS_E_";
/// Begins the line that tells the command's process, on stderr or, with a
/// terminal, on stdout. It is not passed on.
pub(super) const PROCESS: &str = "pixels-process ";
/// Tells what works on the pixel's network which connection it came by.
const CONNECTION: &str = "PIXELS_CONNECTION";
/// The longest single argument Linux takes is 128 KiB.
const LONGEST: usize = 120 * 1024;

/// What sshd and PAM add for root, who is not the one the command runs as.
const FOREIGN: &str = "SSH_CLIENT SSH_CONNECTION SSH_TTY MAIL XDG_RUNTIME_DIR XDG_SESSION_ID \
                       XDG_SESSION_TYPE XDG_SESSION_CLASS DBUS_SESSION_BUS_ADDRESS";

/// The command line that runs `request` as asked for: by root's shell, which
/// hands every argument to `execve` unchanged.
pub(super) fn line(request: &ExecRequest) -> Result<String> {
    let mut script = match request.tty {
        Some(_) => format!("echo \"{PROCESS}$$\"; "),
        None => format!("echo \"{PROCESS}$$\" >&2; "),
    };
    if request.owner == Ids::ROOT {
        script.push_str(&format!("export {CONNECTION}=\"$SSH_CONNECTION\"; "));
    }
    script.push_str(&format!("unset {FOREIGN} {MARK}; "));
    for name in request.env.keys() {
        check_name(name)?;
        script.push_str(&format!(
            "{name}=${PREFIX}{name}; export {name}; unset {PREFIX}{name}; "
        ));
    }
    if let Some(dir) = &request.cwd {
        script.push_str(&format!("cd -- {} 2>/dev/null || cd /; ", shell_quote(dir)));
    }
    let Ids { uid, gid } = request.owner;
    if request.owner == Ids::ROOT {
        script.push_str("exec \"$@\"");
    } else {
        if request.tty.is_some() {
            // Programs open the terminal by its name.
            script.push_str(&format!("chown {uid} \"$(tty)\"; "));
        }
        script.push_str(&format!(
            "exec setpriv --reuid {uid} --regid {gid} --clear-groups -- \"$@\""
        ));
    }
    let mut line = format!("exec /bin/sh -c {} sh", shell_quote(&script));
    for word in &request.argv {
        if word.contains('\0') {
            return Err(Error::Invalid("an argument contains a zero byte".into()));
        }
        line.push(' ');
        line.push_str(&shell_quote(word));
    }
    match line.len() > LONGEST {
        true => Err(Error::Invalid(
            format!(
                "the command is too long ({} bytes, {LONGEST} at most): pass data on stdin",
                line.len()
            )
            .into(),
        )),
        false => Ok(line),
    }
}

/// The command that signals another with all of its process group.
pub(super) fn kill(process: u32, signal: i32) -> String {
    format!("kill -{signal} -{process} 2>/dev/null || kill -{signal} {process}")
}

fn check_name(name: &str) -> Result<()> {
    let sound = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match name.chars().all(sound) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        true if !name.is_empty() => Ok(()),
        _ => Err(Error::Invalid(
            format!("{name:?} is no name of a variable").into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn run(shell: &str, request: &ExecRequest) -> String {
        let output = Command::new(shell)
            .arg("-c")
            .arg(line(request).unwrap())
            .envs(request.env.iter().map(|(k, v)| (format!("{PREFIX}{k}"), v)))
            .env("SSH_TTY", "x")
            .env("SSH_CONNECTION", "192.0.2.1 5 192.0.2.2 22")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn arguments_and_variables_arrive_as_they_are() {
        let words = [
            "a b",
            "",
            "'",
            "\"$HOME\" `id` $(id)",
            "\\n\n",
            "*",
            "-x",
            "é;|&<>",
        ];
        let mut argv = vec!["printf", "[%s]"];
        argv.extend(words);
        let mut request = ExecRequest::root(argv);
        let expected: String = words.iter().map(|word| format!("[{word}]")).collect();
        for shell in ["sh", "bash"] {
            assert_eq!(run(shell, &request), expected);
        }
        let value = "two\nlines 'and' \"$quotes\"";
        request.argv = ["sh", "-c", "echo \"$A|$SSH_TTY|$PIXELS_E_A|$PWD\""]
            .map(str::to_owned)
            .to_vec();
        request.env.insert("A".into(), value.into());
        request.cwd = Some("/no/such 'dir".into());
        assert_eq!(run("sh", &request), format!("{value}|||/\n"));
        request.argv[2] = "echo \"$PIXELS_CONNECTION|$SSH_CONNECTION\"".into();
        assert_eq!(run("sh", &request), "192.0.2.1 5 192.0.2.2 22|\n");
    }

    #[test]
    fn what_cannot_be_said_is_refused() {
        let mut request = ExecRequest::root(["true", "a\0b"]);
        assert!(line(&request).is_err());
        request.argv = vec!["true".into(), "x".repeat(LONGEST)];
        assert!(line(&request).is_err());
        request.argv.truncate(1);
        request.env.insert("A;reboot".into(), "x".into());
        assert!(line(&request).is_err());
    }

    #[test]
    fn others_than_root_are_made_so_last() {
        let mut request = ExecRequest::root(["id"]);
        request.owner = Ids {
            uid: 1000,
            gid: 1001,
        };
        let text = line(&request).unwrap();
        assert!(
            text.contains("--reuid 1000 --regid 1001 --clear-groups"),
            "{text}"
        );
    }
}
