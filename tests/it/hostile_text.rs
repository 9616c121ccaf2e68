//! Text of pixels, servers, files and arguments does not control the terminal.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use serde_json::json;

use crate::support::env::TestEnv;
use crate::support::hostile::{
    ATTACK, HostileServer, assert_plain, assert_plain_outcome, assert_plain_screen,
};
use crate::support::lab;
use crate::support::mcp::{McpServer, environment};
use crate::support::pty::Pty;

/// Ends only hanging commands.
const LIMIT: Duration = Duration::from_secs(60);

/// Commands against a server whose every string attacks the terminal.
const COMMANDS: [&str; 34] = [
    "list",
    "status a",
    "status a --wait",
    "status a --follow",
    "top --once a",
    "checkpoint list a",
    "checkpoint create a",
    "checkpoint restore a one",
    "checkpoint restore --force a one",
    "checkpoint delete a one",
    "sessions a",
    "network show a --all",
    "network log a",
    "network log a --follow",
    "network set a allowlist --allow b.example",
    "network check a b.example:443",
    "network gateway status",
    "prune",
    "start a",
    "stop a",
    "destroy a",
    "destroy --force a",
    "create b",
    "create b --image x/y",
    "create b --from a:one",
    "fork a",
    "exec a true",
    "console a",
    "pull a:x .",
    "sync a:x .",
    "expire a 1h",
    "provision a",
    "events",
    "events --follow",
];

#[test]
fn text_of_servers_is_plain() {
    let mut env = TestEnv::bare();
    let _server = HostileServer::start(&mut env, ATTACK);
    env.config("[mcp.bases.c]\nparent_image = \"x\"\n");
    let mut with_attack = 0;
    for line in COMMANDS.into_iter().chain(["base list", "doctor"]) {
        for option in ["-vv", "--json"] {
            let args = Vec::from_iter(line.split(' ').chain([option]));
            let outcome = env.pixels_within(&args, LIMIT);
            assert_plain_outcome(&outcome, &args);
            let shown = [outcome.stdout, outcome.stderr].concat();
            with_attack += usize::from(shown.contains("]0;title"));
        }
    }
    assert!(
        with_attack > 35,
        "only {with_attack} runs printed text of the server"
    );

    let event = env.pixels(["events", "--follow"]);
    let event = event.expect(5).json_lines();
    assert_eq!(event[0]["action"], ATTACK, "JSON keeps the exact value");

    let mut terminal = Pty::pixels(&env, ["checkpoint", "restore", "a", "one"]);
    terminal.expect("]0;title");
    terminal.exit_code();
    assert_plain_screen(&terminal.screen(), "an error");
}

#[test]
fn text_of_arguments_and_files_is_plain() {
    let mut env = TestEnv::bare();
    env.set("PIXELS_INCUS_SOCKET", "/nowhere/unix.socket");
    let path = format!("./{ATTACK}");
    let option = format!("--{ATTACK}");
    for args in [
        &[ATTACK][..],
        &[&option],
        &["list", &option],
        &["list", ATTACK],
        &["create", ATTACK],
        &["create", "a", "--image", ATTACK],
        &["create", "a", "--egress", ATTACK],
        &["network", "set", "a", "allowlist", "--allow", ATTACK],
        &["push", &path, "a:x"],
        &["push", &path, "nowhere"],
        &["sync", &path, "a:x"],
        &["pull", ATTACK, "."],
        &["expire", "a", ATTACK],
        &["forward", "a", ATTACK],
        &["completions", ATTACK],
        &["man", "--dir", "/dev/null/\u{1b}]0;x\u{7}"],
        &["--config", &path, "list"],
    ] {
        for json in [&[][..], &["--json"]] {
            let args = [json, args].concat();
            assert_plain_outcome(&env.pixels(&args), &args);
        }
    }
    let invalid = env.pixels([OsStr::from_bytes(b"\xff\x1b]0;x\x07")]);
    assert_plain_outcome(&invalid.expect(2), &[]);

    // Colors of the label remain.
    let mut screen = Pty::pixels(&env, [ATTACK]);
    screen.expect("--help");
    assert_eq!(screen.exit_code(), 2);
    let screen = screen.screen();
    assert!(screen.contains("\x1b[31merror:"), "{screen:?}");
    assert_plain_screen(&screen, "a usage error");

    let escaped = ATTACK.replace(|c: char| c.is_control(), "x");
    let file = env.home().join(format!("{ATTACK}.toml"));
    for text in [
        ATTACK.to_owned(),
        format!("a = \"{ATTACK}"),
        format!("\"{escaped}\" = 1\n"),
        format!("[defaults]\nimage = \"{escaped}\"\n\"{escaped}\" = 1\n"),
        format!("[defaults]\nmemory = \"{escaped}\"\n"),
        "[defaults]\nimage = \"\\u001b]0;title\\u0007\\u009b\\u202e\"\n".to_owned(),
        "[mcp.bases.\"\\u001b]0;title\\u0007\"]\nparent_image = \"x\"\n".to_owned(),
    ] {
        std::fs::write(&file, text).unwrap();
        for line in ["config show", "config show --origin", "base list", "list"] {
            for json in [&[][..], &["--json"]] {
                let mut args = vec!["--config", file.to_str().unwrap()];
                args.extend(line.split(' ').chain(json.iter().copied()));
                assert_plain_outcome(&env.pixels(&args), &args);
            }
        }
    }
}

#[test]
fn mcp_log_is_plain_and_errors_are_bounded() {
    let mut env = environment("mcp-hostile");
    let long = format!("{ATTACK}{}", "x".repeat(100_000));
    let _server = HostileServer::start(&mut env, &long);
    let server = McpServer::start(&env);
    let client = server.client();
    let refusal = client.refused("list_sandboxes", json!({}));
    assert!(refusal.len() < 10_000, "{} bytes", refusal.len());
    let image = json!({"image": "x", "wait_sec": 60});
    let failed = client.call("create_sandbox", image);
    assert_eq!(failed["status"], "failed", "{failed}");
    let reason = failed["error"].as_str().unwrap();
    assert!(reason.contains("]0;title"), "{reason}");
    assert!(reason.len() < 10_000, "{} bytes", reason.len());
    let log = server.log();
    assert!(log.contains("]0;title"), "{log}");
    assert_plain(&log, "the log of the server");
    assert_eq!(server.end(), 0);
}

#[test]
#[ignore = "needs Incus"]
fn text_of_pixel_is_plain_on_terminal() {
    lab::ready();
    let mut env = TestEnv::new("text");
    env.set("TERM", "xterm");
    env.config("[network]\nplacement = \"pixel\"\n");
    let name = env.name("a");
    env.pixels(["create", &name, "--egress", "allowlist"]).ok();
    // Root in the pixel controls names of files, the records and logs of steps, the
    // state of units, and the journal.
    let script = r#"
        attack=$1
        mkdir -p /root/w /etc/pixels /var/lib/pixels/steps /var/log/pixels
        cd /root/w
        echo x >"a$attack"
        echo x >"b
delete  c"
        printf 'one%s 1\n' "$attack" >/etc/pixels/steps
        record=/var/lib/pixels/steps/one$attack
        printf 'hash=1\nboot=%s\nstarted=1\nstate=running\n' "$(cat /proc/sys/kernel/random/boot_id)" >"$record"
        printf 'first%s\r20%%\r30%%\r\n%s\342\200\256last\n' "$attack" "$attack" >"/var/log/pixels/one$attack.log"
        touch /run/running
        for program in systemctl journalctl; do
            mv /usr/bin/$program /usr/bin/real-$program
        done
        cat >/usr/bin/systemctl <<'END'
#!/bin/sh
[ "$1" = is-active ] || exec real-systemctl "$@"
if [ -e /run/running ]; then echo active; else echo inactive; fi
END
        cat >/usr/bin/journalctl <<END
#!/bin/sh
for name in "$attack" denied.example; do
    echo "\$(date +%s).5 px dnsmasq[9]: 7 127.0.0.1/53 config \$name is NXDOMAIN"
done
END
        chmod 755 /usr/bin/systemctl /usr/bin/journalctl
    "#;
    let args = ["exec", &name, "--", "sh", "-ec", script, "sh", ATTACK];
    env.pixels(args).ok();

    let folder = format!("{name}:/root/w");
    let here = env.home().join("here");
    let here = here.to_str().unwrap();
    let on_terminal = |args: &[&str], shown: &str| {
        let mut pty = Pty::pixels(&env, args);
        pty.expect(shown);
        pty
    };
    let finish = |mut pty: Pty, args: &[&str]| {
        pty.exit_code();
        let screen = pty.screen();
        assert_plain_screen(&screen, &format!("{args:?}"));
        screen
    };
    let dry_run = ["sync", "-n", &folder, here];
    let screen = finish(on_terminal(&dry_run, "delete  c"), &dry_run);
    assert!(screen.contains("]0;title"), "{screen:?}");
    let forged = screen.lines().any(|line| line.starts_with("delete"));
    assert!(!forged, "{screen:?}");

    let log = ["network", "log", &name];
    finish(on_terminal(&log, "denied.example"), &log);
    let log = ["network", "log", &name, "--follow"];
    let mut pty = on_terminal(&log, "denied.example");
    pty.send("\x03");
    finish(pty, &log);

    // The commands wait for the step, which ends while they run.
    let waiting: [&[&str]; 3] = [
        &["status", &name, "--wait"],
        &["-v", "status", &name, "--wait"],
        &["status", &name, "--follow"],
    ];
    let ptys = waiting.map(|args| on_terminal(args, "last"));
    let end = "sed -i s/=running/=done/ /var/lib/pixels/steps/one*; rm /run/running";
    env.sh(&name, end);
    for (pty, args) in ptys.into_iter().zip(waiting) {
        let screen = finish(pty, args);
        assert!(screen.contains("]0;title"), "{args:?}: {screen:?}");
    }
    for args in [
        &["status", &name][..],
        &["status", &name, "--json"],
        &["-v", "sync", &folder, here],
        &["sync", "--json", "--delete", &folder, here],
        &["-v", "pull", &folder, here],
        &["push", here, &folder],
        &["pull", &format!("{folder}/{ATTACK}"), here],
        &["list", "--json"],
        &["sessions", &name],
    ] {
        assert_plain_outcome(&env.pixels(args), args);
    }
    let raw = env.sh(&name, "printf '\\033[31m\\t\\342\\200\\256'");
    assert_eq!(
        raw, "\x1b[31m\t\u{202e}",
        "the output of a command is unchanged"
    );
}
