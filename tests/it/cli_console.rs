//! Consoles and commands on a real terminal.

use rustix::process::{Signal, kill_process};
use rustix::termios::LocalModes;

use crate::support::env::TestEnv;
use crate::support::lab;
use crate::support::pty::Pty;

/// A command that prints `[TEXT]`; its echo does not contain `[TEXT]`.
fn say(what: &str) -> String {
    format!("echo \"[\"{what}\"]\"\r")
}

#[test]
#[ignore = "needs Incus"]
fn console_attaches_shell_to_terminal() {
    lab::ready();
    let mut env = TestEnv::new("console");
    let name = env.create("a");
    env.pixels(["stop", "--force", &name]).ok();
    env.set("TERM", "screen-256color");

    // `console` starts a stopped pixel.
    let mut console = Pty::pixels(&env, ["console", &name]);
    let before = console.settings();
    console.send(&say("$((20+22))"));
    console.expect("[42]");
    let list = env.pixels(["list", "--json"]).ok().json();
    let there = list.as_array().unwrap().iter().find(|p| p["name"] == name);
    assert_eq!(there.unwrap()["status"], "RUNNING");

    // The local terminal is in raw mode and passes keys on unchanged.
    let raw = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
    assert!(!console.settings().local_modes.intersects(raw));

    // The console is a login shell in the home directory with the local TERM.
    console.send(&say("$(tty)"));
    console.expect("[/dev/pts/");
    console.send(&say("$TERM $HOME $PWD $(hostname)"));
    console.expect(&format!("[screen-256color /root /root px-{name}]"));
    console.send(&say("$(shopt -q login_shell && echo yes)"));
    console.expect("[yes]");

    // The size of the console follows the size of the local terminal.
    console.send(&say("$(stty size)"));
    console.expect("[24 80]");
    // The shell prints a line when it receives the new size.
    console.send("trap 'echo \"<\"$(stty size)\">\"' WINCH\r");
    console.send(&say("$((1+1))"));
    console.expect("[2]");
    console.resize(101, 37);
    console.expect("<37 101>");

    // Ctrl-C ends only the foreground command: `sh` prints the line, because
    // bash would not forward the signal.
    console.send("sh -c 'echo \"<\"sleeping\">\"; exec sleep 7771'\r");
    console.expect("<sleeping>");
    console.send("\x03");
    console.send(&say("$?-$((40+2))"));
    console.expect("[130-42]");

    // Non-ASCII text is sent and printed unchanged.
    console.send(&say("größe-漢字"));
    console.expect("[größe-漢字]");

    console.send("exit 5\r");
    assert_eq!(console.exit_code(), 5);
    assert_eq!(modes(&console.settings()), modes(&before));
    assert!(!console.screen().contains("panicked"));

    // SIGTERM ends `pixels console`, which restores the terminal's settings.
    let mut console = Pty::pixels(&env, ["console", "--no-persist", &name]);
    let before = console.settings();
    console.send(&say("$((20+22))"));
    console.expect("[42]");
    kill_process(console.pid(), Signal::TERM).unwrap();
    // The shell exits when its terminal hangs up.
    assert_eq!(console.exit_code(), 129);
    assert_eq!(modes(&console.settings()), modes(&before));

    // Ctrl-D ends the console with the exit code of the last command.
    let mut console = Pty::pixels(&env, ["console", &name]);
    console.send(&format!("sh -c 'exit 3'; {}", say("$?")));
    console.expect("[3]");
    console.send("sh -c 'exit 3'\r\x04");
    assert_eq!(console.exit_code(), 3);

    let mut missing = Pty::pixels(&env, ["console", &env.name("missing")]);
    missing.expect("not found");
    assert_eq!(missing.exit_code(), 125);
    let no_terminal = env.pixels(["console", &name]).expect(2);
    no_terminal.reports(&format!("pixels exec {name} -- COMMAND"));
}

/// The terminal settings that a user would notice.
fn modes(settings: &rustix::termios::Termios) -> String {
    format!(
        "{:?} {:?} {:?} {:?}",
        settings.input_modes, settings.output_modes, settings.control_modes, settings.local_modes
    )
}

#[test]
#[ignore = "needs Incus"]
fn exec_on_terminal_allocates_tty() {
    lab::ready();
    let mut env = TestEnv::bare();
    let name = env.shared_pixel();
    env.set("TERM", "vt220");
    let tell = "test -t 0 && test -t 1 && echo \"yes $TERM $(stty size)\" || echo no terminal";

    let mut on = Pty::pixels(&env, ["exec", &name, "--", "sh", "-c", tell]);
    on.expect("yes vt220 24 80");
    assert_eq!(on.exit_code(), 0);
    let mut off = Pty::pixels(&env, ["exec", "-T", &name, "--", "sh", "-c", tell]);
    off.expect("no terminal");
    assert_eq!(off.exit_code(), 0);

    // Ctrl-C on the terminal is input for the command and does not end pixels.
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let mut loops = Pty::pixels(&env, ["exec", &name, "--", "sh", "-c", script]);
    let before = loops.settings();
    loops.expect("ready");
    loops.send("\x03");
    loops.expect("caught");
    assert_eq!(loops.exit_code(), 9);
    let now = loops.settings();
    assert!(
        now.local_modes
            .contains(LocalModes::ICANON | LocalModes::ECHO)
    );
    assert!(!before.local_modes.contains(LocalModes::ICANON) || modes(&now) == modes(&before));

    // With `-T`, Ctrl-C is forwarded to the command as SIGINT.
    let mut loops = Pty::pixels(&env, ["exec", "-T", &name, "--", "sh", "-c", script]);
    loops.expect("ready");
    loops.send("\x03");
    loops.expect("caught");
    assert_eq!(loops.exit_code(), 9);

    // Like an editor, the command reads single keys without echo.
    let keys = "stty raw -echo; echo ready; head -c 3 | od -An -tx1; stty sane";
    let mut editor = Pty::pixels(&env, ["exec", &name, "--", "sh", "-c", keys]);
    editor.expect("ready");
    editor.send("\x1b\x03\x7f");
    editor.expect("1b 03 7f");
    assert_eq!(editor.exit_code(), 0);
}

#[test]
#[ignore = "needs Incus"]
fn destroy_on_terminal_asks_for_confirmation() {
    lab::ready();
    let env = TestEnv::new("asks");
    let name = env.create("a");
    for (answer, code, gone) in [
        ("n\r", 0, false),
        ("\r", 0, false),
        ("\x04", 0, false),
        ("\x03", 130, false),
        ("y\r", 0, true),
    ] {
        let mut asking = Pty::pixels(&env, ["destroy", &name]);
        asking.expect(&format!("Destroy {name}"));
        asking.expect("[y/N]");
        asking.send(answer);
        assert_eq!(asking.exit_code(), code, "{answer:?}");
        assert_eq!(env.remaining().is_empty(), gone, "{answer:?}");
    }
}
