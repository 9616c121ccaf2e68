//! `exec` behaves like running the command locally: arguments, streams,
//! signals, environment and exit codes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::env::{Outcome, TestEnv};
use crate::support::{lab, wait};

/// Prints each argument followed by a NUL.
const SHOW: &str = r#"for a; do printf '%s\0' "$a"; done"#;

struct Pixel {
    env: TestEnv,
    name: String,
}

impl Pixel {
    fn shared() -> Self {
        let mut env = TestEnv::bare();
        let name = env.shared_pixel();
        Self { env, name }
    }

    /// A new pixel, for a test that changes the pixel.
    fn new(test: &str) -> Self {
        let env = TestEnv::new(test);
        let name = env.create("a");
        Self { env, name }
    }

    /// The arguments `exec OPTIONS NAME -- COMMAND`.
    fn args<'a>(&'a self, options: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["exec"];
        args.extend(options);
        args.extend([self.name.as_str(), "--"]);
        args.extend(command);
        args
    }

    fn exec(&self, command: &[&str]) -> Outcome {
        self.env.pixels(self.args(&[], command))
    }

    fn with(&self, options: &[&str], command: &[&str]) -> Outcome {
        self.env.pixels(self.args(options, command))
    }

    /// Runs the command with `input` on stdin.
    fn fed(&self, options: &[&str], command: &[&str], input: &[u8]) -> Outcome {
        self.env.pixels_with(self.args(options, command), input)
    }

    fn spawn(&self, options: &[&str], command: &[&str]) -> Child {
        self.env.spawn(self.args(options, command))
    }

    /// Whether the pixel runs a process whose arguments contain this text.
    fn runs(&self, text: &str) -> bool {
        let all = self.exec(&["ps", "-eo", "args"]).ok().stdout;
        all.contains(text)
    }

    #[track_caller]
    fn wait_until_gone(&self, text: &str) {
        let what = format!("no process matches {text:?} in the pixel");
        wait::eventually(&what, || !self.runs(text));
    }
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Reads the first line of a child's output; the child prints it when ready.
fn first_line(child: &mut Child) -> (String, BufReader<std::process::ChildStdout>) {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    (line, out)
}

fn rest(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

#[test]
#[ignore = "needs Incus"]
fn exec_arguments_are_passed_unchanged() {
    lab::ready();
    let pixel = Pixel::shared();
    let spaces = ["", "a b", " a ", "a\nb\n", "\t", "größe 漢字 🦀"];
    let special = ["*", "~", "$HOME", "`id`", "$(id)", "\\", "\"", "'", "{a,b}"];
    let syntax = [";", "&&", "!x", "#", "a=b"];
    let options = ["-n", "--help", "--json", "--", "-"];
    let arguments = [&spaces[..], &special, &syntax, &options].concat();
    let command = [&["sh", "-c", SHOW, "sh"][..], &arguments].concat();
    let expected: String = arguments.iter().map(|a| format!("{a}\0")).collect();
    assert_eq!(pixel.exec(&command).ok().stdout, expected);

    // Without `--`, all arguments after the name belong to the command.
    let plain = pixel
        .env
        .pixels(["exec", &pixel.name, "printf", "%s ", "-q", "--json", "--"])
        .ok();
    assert_eq!(plain.stdout, "-q --json -- ");

    // An argument just below the kernel's limit for one argument.
    let long = "x".repeat(128 * 1024 - 1);
    let out = pixel.exec(&["printf", "%s", &long]).ok();
    assert_eq!(out.stdout.len(), long.len());

    use std::os::unix::ffi::OsStrExt;
    let raw = std::ffi::OsStr::from_bytes(b"\xff");
    let mut not_text = pixel.env.command(["exec", &pixel.name, "--", "echo"]);
    assert_eq!(not_text.arg(raw).output().unwrap().status.code(), Some(2));
}

#[test]
#[ignore = "needs Incus"]
fn exec_separates_streams_and_returns_exit_codes() {
    lab::ready();
    let pixel = Pixel::shared();
    let both = pixel.exec(&["sh", "-c", "echo out; echo err >&2"]).ok();
    assert_eq!((&*both.stdout, &*both.stderr), ("out\n", "err\n"));

    for (code, command) in [
        (0, vec!["true"]),
        (7, vec!["sh", "-c", "exit 7"]),
        (255, vec!["sh", "-c", "exit 255"]),
        (124, vec!["sh", "-c", "exit 124"]),
        (125, vec!["sh", "-c", "exit 125"]),
        (137, vec!["sh", "-c", "kill -9 $$"]),
        (143, vec!["sh", "-c", "kill -15 $$"]),
    ] {
        let outcome = pixel.exec(&command).expect(code);
        assert_eq!(outcome.stderr, "", "{command:?}");
    }
    let outcome = pixel.exec(&["/etc/passwd"]).expect(126);
    outcome.reports("/etc/passwd");
    pixel.exec(&["/etc"]).expect(126);
    for missing in ["no-such-command", "/no/such/command"] {
        pixel.exec(&[missing]).expect(127);
    }

    // `-q` and `--json` do not affect the command's output.
    let quiet = pixel.with(&["-q", "--json"], &["sh", "-c", "echo out; exit 3"]);
    let quiet = quiet.expect(3);
    assert_eq!((&*quiet.stdout, &*quiet.stderr), ("out\n", ""));
}

#[test]
#[ignore = "needs Incus"]
fn exec_streams_100_mb_unchanged() {
    lab::ready();
    let pixel = Pixel::shared();
    let mut sent = vec![0; 100 * 1024 * 1024];
    fastrand::Rng::with_seed(1).fill(&mut sent);
    let mut child = pixel.spawn(&[], &["cat"]);
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut received = Vec::with_capacity(sent.len());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // With this size, chunk boundaries are at odd offsets.
            for chunk in sent.chunks(77_777) {
                stdin.write_all(chunk).unwrap();
            }
            drop(stdin);
        });
        stdout.read_to_end(&mut received).unwrap();
    });
    assert_eq!(received.len(), sent.len());
    assert!(received == sent, "bytes differ");
    assert_eq!(wait::exit_code(&mut child), 0);
    assert_eq!(rest(child.stderr.take().unwrap()), "");
}

#[test]
#[ignore = "needs Incus"]
fn exec_ends_when_stdin_or_reader_closes() {
    lab::ready();
    let pixel = Pixel::shared();

    // Both streams are written at once, and each exceeds all buffers.
    let script = "head -c 8000000 /dev/zero >&2 & head -c 8000000 /dev/zero; wait";
    let big = pixel.exec(&["sh", "-c", script]).ok();
    assert_eq!((big.stdout.len(), big.stderr.len()), (8_000_000, 8_000_000));

    // When stdin of pixels ends, the command's stdin ends.
    let lines = pixel.fed(&[], &["wc", "-l"], b"a\nb\n").ok();
    assert_eq!(lines.stdout.trim(), "2");

    // The command reads nothing or only a part of its input.
    let input = vec![b'x'; 20_000_000];
    pixel.fed(&[], &["sh", "-c", "exit 6"], &input).expect(6);
    let little = pixel.fed(&[], &["head", "-c", "3"], &input).ok();
    assert_eq!((&*little.stdout, &*little.stderr), ("xxx", ""));

    // The stdin of pixels stays open.
    let mut open = pixel.spawn(&[], &["echo", "done"]);
    let stdin = open.stdin.take();
    assert_eq!(wait::exit_code(&mut open), 0);
    drop(stdin);

    // Like `| head -1`: the command ends when its reader closes the pipe.
    let mut yes = pixel.spawn(&[], &["yes", "t-forever"]);
    let (line, out) = first_line(&mut yes);
    assert_eq!(line, "t-forever\n");
    drop(out);
    let code = wait::exit_code(&mut yes);
    assert!(code == 1 || code == 141, "{code}");
    let printed = rest(yes.stderr.take().unwrap());
    assert!(!printed.contains("panicked"), "{printed}");
    pixel.wait_until_gone("yes t-forever");

    // A background process keeps the output open without delaying the exit.
    let left = pixel.exec(&["sh", "-c", "sleep 6661 & echo done"]).ok();
    assert_eq!(left.stdout, "done\n");
    assert!(pixel.runs("sleep 6661"), "a background process is kept");
}

#[test]
#[ignore = "needs Incus"]
fn exec_timeout_kills_all_processes() {
    lab::ready();
    let pixel = Pixel::shared();
    // Each script starts processes named `sleep 777…` that must end.
    let ignoring = "trap : TERM; while :; do sleep 7775; done";
    let scripts = [
        "sleep 7770".to_owned(),
        "sleep 7771 & sleep 7772 >/dev/null 2>&1 & sleep 7773".to_owned(),
        "setsid sleep 7771 >/dev/null 2>&1 & nohup sleep 7772 >/dev/null 2>&1 & sleep 7773".into(),
        "env -i sleep 7771 & sleep 7772".to_owned(),
        "sudo -u ubuntu sh -c 'sleep 7771 & sleep 7772'".to_owned(),
        "sudo -u ubuntu env -i sleep 7771 >/dev/null 2>&1 & sleep 7772".to_owned(),
        format!("sh -c '{ignoring}'"),
        format!("sh -c '{ignoring}' >/dev/null 2>&1 & sleep 7771"),
        format!("env -i sh -c '{ignoring}' >/dev/null 2>&1 & sleep 7771"),
    ];
    for script in &scripts {
        let ended = pixel.with(&["--timeout", "1s"], &["sh", "-c", script]);
        assert_eq!(ended.code, 124, "{script}: {}", ended.stderr);
        assert!(ended.stderr.contains("1 s"), "{script}: {}", ended.stderr);
        let left = pixel.exec(&["ps", "-eo", "args"]).ok().stdout;
        assert!(!left.contains("777"), "{script} left: {left}");
    }
    // The time limit does not affect a concurrent command.
    let mut other = pixel.spawn(&[], &["sh", "-c", "echo ready; exec sleep 8881"]);
    let (_, _out) = first_line(&mut other);
    let silent = pixel.with(&["-q", "--timeout", "0.5"], &["sleep", "7770"]);
    assert_eq!(silent.expect(124).stderr, "");
    let reported = pixel.with(&["--json", "--timeout", "0.5"], &["sleep", "7770"]);
    let reported = reported.expect(124).error();
    assert_eq!(
        (&reported["kind"], &reported["exit_code"]),
        (&"timed_out".into(), &124.into())
    );
    // A command's own exit code 124 is not reported as a time limit.
    let own = pixel.with(&["--timeout", "60"], &["sh", "-c", "exit 124"]);
    assert_eq!(own.expect(124).stderr, "");
    assert!(pixel.runs("sleep 8881"));
    signal(&other, Signal::INT);
    assert_eq!(wait::exit_code(&mut other), 130);

    // A command that ends within the time limit keeps its exit code.
    let kept = pixel.with(&["--timeout", "1h"], &["sh", "-c", "exit 4"]);
    assert_eq!(kept.expect(4).stderr, "");
    for bad in ["0", "-1s", "soon", ""] {
        pixel.with(&["--timeout", bad], &["true"]).expect(2);
    }
}

#[test]
#[ignore = "needs Incus"]
fn exec_forwards_signals() {
    lab::ready();
    let pixel = Pixel::shared();
    for (number, name, code) in [
        (Signal::INT, "INT", 9),
        (Signal::TERM, "TERM", 8),
        (Signal::HUP, "HUP", 6),
    ] {
        let script = format!(
            "trap 'echo caught {name}; exit {code}' {name}; echo ready; while :; do sleep 0.05; done"
        );
        let mut child = pixel.spawn(&[], &["sh", "-c", &script]);
        let (line, out) = first_line(&mut child);
        assert_eq!(line, "ready\n");
        signal(&child, number);
        assert_eq!(rest(out), format!("caught {name}\n"));
        assert_eq!(wait::exit_code(&mut child), code);
    }
    // Without a trap, the signal ends the command and its child processes.
    // Background processes of a shell ignore SIGINT, in a pixel as everywhere.
    for (number, code, script) in [
        (Signal::INT, 130, "echo ready; sleep 5551; :"),
        (
            Signal::TERM,
            143,
            "env -i sleep 5551 & echo ready; sleep 5552; :",
        ),
    ] {
        let mut child = pixel.spawn(&[], &["sh", "-c", script]);
        let (_, _out) = first_line(&mut child);
        signal(&child, number);
        assert_eq!(wait::exit_code(&mut child), code);
        pixel.wait_until_gone("sleep 555");
    }
    // A repeated Ctrl-C kills a command that ignores SIGINT.
    let mut deaf = pixel.spawn(&[], &["sh", "-c", "trap '' INT; echo ready; sleep 5553"]);
    let (_, _out) = first_line(&mut deaf);
    let code = wait::until("the command that ignores SIGINT ends", || {
        signal(&deaf, Signal::INT);
        // Pending signals of the same number are merged into one.
        std::thread::sleep(Duration::from_millis(100));
        deaf.try_wait().unwrap().map(wait::code)
    });
    assert_eq!(code, 137);
    pixel.wait_until_gone("sleep 5553");
    // SIGTERM also ends a command that ignores SIGTERM.
    let mut deaf = pixel.spawn(&[], &["sh", "-c", "trap '' TERM; echo ready; sleep 5554"]);
    let (_, _out) = first_line(&mut deaf);
    signal(&deaf, Signal::TERM);
    assert_eq!(wait::exit_code(&mut deaf), 137);
    pixel.wait_until_gone("sleep 5554");
}

#[test]
#[ignore = "needs Incus"]
fn exec_sets_environment_directory_and_user() {
    lab::ready();
    let mut pixel = Pixel::new("env");

    // Checks environment variables.
    pixel.env.set("T_OURS", "from here").set("T_SECRET", "no");
    let show = "printf '%s|' \"$A\" \"$EMPTY\" \"$LINES2\" \"$T_OURS\" \"${T_ABSENT-unset}\" \
                \"${T_SECRET-unset}\"";
    let values = ["-e", "A=b=c d", "--env", "EMPTY=", "-e", "LINES2=1\n2ü"];
    let inherited = ["-e", "T_OURS", "-e", "T_ABSENT"];
    let options = [&values[..], &inherited].concat();
    let shown = pixel.with(&options, &["sh", "-c", show]).ok().stdout;
    assert_eq!(shown, "b=c d||1\n2ü|from here|unset|unset|");
    let path = pixel.with(
        &["-e", "PATH=/somewhere:/usr/bin:/bin"],
        &["sh", "-c", "echo $PATH; env"],
    );
    let path = path.ok().stdout;
    assert!(path.starts_with("/somewhere:/usr/bin:/bin\n"), "{path}");
    assert!(!path.contains("PIXELS_EXEC_PATH"), "{path}");
    let bad = pixel.with(&["-e", "1X=y"], &["true"]);
    bad.expect(2).reports("\"1X=y\"");
    let login = pixel.exec(&["sh", "-c", "echo $HOME $USER $LOGNAME; pwd; echo $PATH"]);
    let login = login.ok().stdout;
    assert!(login.starts_with("/root root root\n/root\n"), "{login}");
    assert!(login.contains("/usr/local/bin"), "{login}");
    // The shell that reads the profile has been replaced by the command.
    assert_eq!(
        pixel.exec(&["sh", "-c", "echo $0"]).ok().stdout.trim(),
        "sh"
    );

    // Checks working directories.
    let odd = "/srv/it's a \"folder\" ü";
    pixel.exec(&["mkdir", "-p", odd, "/root/below"]).ok();
    for (given, there) in [("/tmp", "/tmp"), (odd, odd), ("below", "/root/below")] {
        let shown = pixel.with(&["-w", given], &["pwd"]).ok().stdout;
        assert_eq!(shown, format!("{there}\n"));
    }
    for gone in ["/no/such folder", "/etc/passwd"] {
        let refused = pixel.with(&["--cwd", gone], &["true"]);
        refused.expect(125).reports(gone);
    }

    // Checks users.
    let who = ["sh", "-c", "id -u; id -g; echo $USER $HOME; pwd"];
    for (user, expected) in [
        ("root", "0\n0\nroot /root\n/root\n"),
        ("0", "0\n0\nroot /root\n/root\n"),
        ("ubuntu", "1000\n1000\nubuntu /home/ubuntu\n/home/ubuntu\n"),
        ("1000", "1000\n1000\nubuntu /home/ubuntu\n/home/ubuntu\n"),
        ("1000:4", "1000\n4\nubuntu /home/ubuntu\n/home/ubuntu\n"),
        ("4242", "4242\n4242\n4242 /\n/\n"),
    ] {
        let shown = pixel.with(&["-u", user], &who).ok();
        assert_eq!(shown.stdout, expected, "{user}: {}", shown.stderr);
    }
    for user in ["no-such-user", "1000:x", "", "-1"] {
        let option = format!("--user={user}");
        let refused = pixel.with(&[&option], &["true"]).expect(125);
        refused.reports(&format!("user {user:?} in the pixel not found"));
    }
    // The command runs once and reads its input, for any configured user.
    for provisioned in ["true", "false"] {
        pixel.env.set("PIXELS_PROVISION_ENABLED", provisioned);
        let script = "id -un; cat; echo x >>/root/runs; wc -l </root/runs";
        let shown = pixel.fed(&[], &["sh", "-c", script], b"input\n").ok();
        let runs = if provisioned == "true" { 1 } else { 2 };
        assert_eq!(shown.stdout, format!("root\ninput\n{runs}\n"));
    }
    // A time limit also ends processes of another user.
    let limited = ["-u", "ubuntu", "--timeout", "1"];
    pixel.with(&limited, &["sleep", "7771"]).expect(124);
    assert!(!pixel.runs("sleep 7771"));
}

#[test]
#[ignore = "needs Incus"]
fn exec_tty_option_works_without_terminal() {
    lab::ready();
    let pixel = Pixel::shared();
    let is_tty = "test -t 0 && test -t 1 && test -t 2 && echo yes || echo no";
    for (options, printed) in [
        (&[][..], "no\n"),
        (&["-T"], "no\n"),
        (&["--no-tty"], "no\n"),
        (&["-t"], "yes\r\n"),
        // The last option has priority.
        (&["-t", "-T"], "no\n"),
    ] {
        let stdout = pixel.with(options, &["sh", "-c", is_tty]).ok().stdout;
        assert_eq!(stdout, printed, "{options:?}");
    }
    pixel.with(&["-t"], &["sh", "-c", "exit 7"]).expect(7);
    pixel.with(&["-t"], &["no-such-command"]).expect(127);
    // Piped input and its end reach the command.
    for (command, printed) in [
        (&["sh", "-c", "read a; echo [$a]"][..], "[x]"),
        (&["cat"], "x"),
    ] {
        let stdout = pixel.fed(&["-t"], command, b"x\n").ok().stdout;
        assert!(stdout.contains(printed), "{stdout}");
    }
    let limited = pixel.with(&["-t", "--timeout", "1"], &["sleep", "4441"]);
    limited.expect(124);
    pixel.wait_until_gone("sleep 4441");
    let mut child = pixel.spawn(&["-t"], &["sh", "-c", "echo ready; sleep 4442"]);
    let (_, _out) = first_line(&mut child);
    signal(&child, Signal::TERM);
    wait::exit_code(&mut child);
    pixel.wait_until_gone("sleep 4442");
}

#[test]
#[ignore = "needs Incus"]
fn exec_failures_report_cause() {
    lab::ready();
    let pixel = Pixel::new("refused");
    let missing = pixel.env.name("missing");
    let gone = pixel.env.pixels(["exec", &missing, "--", "true"]);
    gone.expect(125)
        .reports(&format!("pixel {missing:?} not found"));
    let gone = ["exec", "--json", &missing, "--", "true"];
    let gone = pixel.env.pixels(gone).expect(125).error();
    assert_eq!(gone["kind"], "not_found");
    assert_eq!(gone["exit_code"], 125);

    pixel.env.pixels(["stop", "--force", &pixel.name]).ok();
    let state = format!("pixel {:?} is stopped", pixel.name);
    let stopped = pixel.exec(&["true"]).expect(125).reports(&state);
    stopped.reports(&format!("pixels start {}", pixel.name));
    let stopped = pixel.with(&["-u", "ubuntu"], &["true"]);
    stopped.expect(125).reports(&state);

    let mut lost = TestEnv::bare();
    lost.set("PIXELS_INCUS_SOCKET", "/nowhere/unix.socket");
    let lost = lost.pixels(["exec", "a", "--", "true"]);
    lost.expect(125).reports("/nowhere/unix.socket");
    // A usage error is reported before pixels connects to the server.
    pixel.env.pixels(["exec", &pixel.name]).expect(2);
    pixel.env.pixels(["exec", "A", "--", "true"]).expect(2);
}
