//! Builds the command line for the pixel's shell.

use crate::model::{Error, ExecRequest, Ids, Reason, Result, is_env_name, shell_quote};

/// Prefix of variables that are sent as SSH environment requests. Command
/// arguments would be visible to all users of the pixel.
pub(super) const ENV_PREFIX: &str = "PIXELS_E_";
/// A variable that is sent first. A server that accepts it accepts all variables.
pub(super) const ENV_PROBE: &str = "PIXELS_E_";
/// Prefix of the line with the process id of the command. The line is on
/// stderr, or on stdout with a terminal, and is removed from the output.
pub(super) const PID_LINE: &str = "pixels-process ";
/// Passes `SSH_CONNECTION` to the scripts that change the packet filter.
const CONNECTION: &str = "PIXELS_CONNECTION";
/// Maximum command length in bytes. Linux allows 128 KiB per argument.
const MAX_COMMAND: usize = 120 * 1024;

/// Variables set by sshd and PAM for root, which the command must not inherit.
const SSH_VARIABLES: &str = "SSH_CLIENT SSH_CONNECTION SSH_TTY MAIL XDG_RUNTIME_DIR XDG_SESSION_ID \
                       XDG_SESSION_TYPE XDG_SESSION_CLASS DBUS_SESSION_BUS_ADDRESS";

/// Returns the command line that runs `request`. A POSIX shell as root sets up
/// the environment and passes every argument to `execve` unchanged. Fails with
/// `Error::Invalid` for zero bytes, invalid variable names and long commands.
pub(super) fn line(request: &ExecRequest) -> Result<String> {
    let mut script = match request.tty {
        Some(_) => format!("echo \"{PID_LINE}$$\"; "),
        None => format!("echo \"{PID_LINE}$$\" >&2; "),
    };
    if request.owner == Ids::ROOT {
        script.push_str(&format!("export {CONNECTION}=\"$SSH_CONNECTION\"; "));
    }
    script.push_str(&format!("unset {SSH_VARIABLES} {ENV_PROBE}; "));
    for name in request.env.keys() {
        check_name(name)?;
        script.push_str(&format!(
            "{name}=${ENV_PREFIX}{name}; export {name}; unset {ENV_PREFIX}{name}; "
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
            // Programs open the terminal device by path.
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
    match line.len() > MAX_COMMAND {
        true => {
            let length = line.len();
            let text = format!("the command is too long ({length} bytes, {MAX_COMMAND} at most)");
            Err(Error::Invalid(
                Reason::from(text).with_hint("pass the data on stdin"),
            ))
        }
        false => Ok(line),
    }
}

/// Returns the command that signals a process group or a single process.
pub(super) fn kill(process: u32, signal: i32) -> String {
    format!("kill -{signal} -{process} 2>/dev/null || kill -{signal} {process}")
}

fn check_name(name: &str) -> Result<()> {
    match is_env_name(name) {
        true => Ok(()),
        false => Err(Error::Invalid(
            format!("invalid variable name {name:?}").into(),
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
            .envs(
                request
                    .env
                    .iter()
                    .map(|(k, v)| (format!("{ENV_PREFIX}{k}"), v)),
            )
            .env("SSH_TTY", "x")
            .env("SSH_CONNECTION", "192.0.2.1 5 192.0.2.2 22")
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn arguments_and_variables_arrive_unchanged() {
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
    fn nul_and_oversized_arguments_rejected() {
        let mut request = ExecRequest::root(["true", "a\0b"]);
        assert!(line(&request).is_err());
        request.argv = vec!["true".into(), "x".repeat(MAX_COMMAND)];
        assert!(line(&request).is_err());
        request.argv.truncate(1);
        request.env.insert("A;reboot".into(), "x".into());
        assert!(line(&request).is_err());
    }

    #[test]
    fn setpriv_runs_last() {
        let mut request = ExecRequest::root(["id"]);
        request.owner = Ids {
            uid: 1000,
            gid: 1001,
        };
        let text = line(&request).unwrap();
        let script = text.strip_suffix(" sh id").unwrap();
        let last = "exec setpriv --reuid 1000 --regid 1001 --clear-groups -- \"$@\"'";
        assert!(script.ends_with(last), "{text}");
    }
}
