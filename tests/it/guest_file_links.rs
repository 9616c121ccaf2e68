//! Links that the user of a pixel creates during pushes and syncs, and before
//! `pixels provision`: see `guest_file_rights`.

use std::fs;
use std::time::Duration;

use crate::guest_file_rights::Sandbox;
use crate::support::env::{Outcome, finished, spawn};
use crate::support::wait;

/// Rounds of each race. Root that follows links loses within a few rounds.
const ROUNDS: usize = 20;
/// Time limit of a command that the user tries to block.
const LIMIT: Duration = Duration::from_secs(60);

/// Replaces temporary directories in ~/inbox with links: in turn to /victim and
/// to a directory with links to root's files.
const TEMPORARY_DIRECTORIES: &str = r#"
chdir "$ENV{HOME}/inbox" or die;
my $round = 0;
until (-e "../stop") {
    opendir(my $dir, ".") or die;
    for my $name (grep { /^\.pixels-/ && !-l } readdir $dir) {
        # Only the owner of a directory can move it to another parent.
        rename($name, "taken-" . ++$round) or next;
        symlink($round % 2 ? "/victim" : "../bait", $name);
    }
}
"#;

/// Replaces ~/work/sub, which contains `gone`, with a link to /victim, and back.
const SUBDIRECTORY: &str = r#"
chdir "$ENV{HOME}/work" or die;
until (-e "../stop") {
    mkdir "sub";
    open(my $file, ">", "sub/gone");
    close $file;
    rename("sub", "../held") or next;
    symlink("/victim", "sub");
    unlink "sub";
    rename("../held", "sub");
}
"#;

/// Files that the user prepares in the home directory before `pixels provision`.
const HOME_LINKS: &[&str] = &[
    "mkdir -p .ssh; ln -sf /victim/key .ssh/authorized_keys",
    "mkdir -p .ssh; ln -sf /etc/ld.so.preload .ssh/authorized_keys",
    "mkdir -p .ssh; mkfifo .ssh/authorized_keys",
    "ln -s /victim .ssh",
    "ln -s /root/.ssh .ssh",
    "mkdir -p .config/mise; ln -s /victim/content .config/mise/config.toml",
    "mkdir -p .config; ln -s /victim .config/mise",
    "ln -s /victim .config",
    "mkdir -p .config; ln /etc/shadow .config/shadow; ln -s /etc/shadow .config/link; true",
];

/// Runs commands while the user runs a Perl program. The commands may fail.
#[track_caller]
fn race(
    sandbox: &Sandbox,
    program: &str,
    rounds: usize,
    what: &str,
    command: impl Fn() -> Outcome,
) {
    sandbox.delete("stop ready");
    let started = format!("open(my $ready, '>', \"$ENV{{HOME}}/ready\");{program}");
    let args = ["exec", &sandbox.name, "--", "perl", "-e", &started];
    let mut racer = sandbox.env.start(args);
    wait::eventually("the racer runs", || {
        sandbox.exec("pixel", "[ -e ready ]").code == 0
    });
    for _ in 0..rounds {
        let _ = command();
    }
    sandbox.sh("touch stop");
    assert_eq!(wait::exit_code(&mut racer), 0, "{what}");
    sandbox.check_root_files(what);
}

pub fn pushes_and_syncs(sandbox: &Sandbox) {
    let here = tempfile::tempdir().unwrap();
    let local = |name: &str| here.path().join(name).display().to_string();
    fs::create_dir_all(local("dir/sub")).unwrap();
    fs::write(local("one"), "pushed").unwrap();
    fs::write(local("dir/one"), "pushed").unwrap();
    fs::write(local("large"), "x".repeat(17 << 20)).unwrap();
    sandbox.sh(
        "mkdir inbox bait work; cd bait; ln -s /etc/shadow content; ln -s /etc/shadow done; \
         ln -s /victim tree",
    );
    let push = |from: &str, to: &str| {
        sandbox
            .env
            .pixels(["push", &local(from), &sandbox.there(to)])
    };
    let stream = sandbox.there("inbox/stream");
    let racer = TEMPORARY_DIRECTORIES;
    race(sandbox, racer, ROUNDS, "push of stdin", || {
        sandbox.env.pixels_with(["push", "-", &stream], b"text")
    });
    race(sandbox, racer, ROUNDS, "push of a file", || {
        push("one", "inbox/one")
    });
    race(sandbox, racer, ROUNDS, "push of a directory", || {
        push("dir/.", "inbox")
    });
    race(sandbox, racer, 5, "push of a large file", || {
        push("large", "inbox/l")
    });
    let work = sandbox.there("work");
    race(sandbox, SUBDIRECTORY, ROUNDS, "sync with deletions", || {
        sandbox
            .env
            .pixels(["sync", "--delete", &local("dir"), &work])
    });
    sandbox.delete("inbox bait work held");
}

pub fn provisioning(sandbox: &Sandbox) {
    let env = &sandbox.env;
    let key = "ssh-ed25519 AAAA test\n";
    fs::create_dir_all(env.home().join(".ssh")).unwrap();
    fs::write(env.home().join(".ssh/id_ed25519.pub"), key).unwrap();
    let provision = || {
        let mut command = env.command(["provision", &sandbox.name]);
        command.env("PIXELS_PROVISION_DEVTOOLS", "true");
        finished(spawn(&mut command), LIMIT)
    };
    // Installs the SSH server, which adds a user to /etc/shadow.
    env.pixels(["provision", &sandbox.name, "--wait"]).ok();
    // In the mode allowlist, the command would wait for the downloads of the step.
    env.pixels(["network", "set", &sandbox.name, "agent"]).ok();
    sandbox.accept_root_files();
    let root_ssh = "stat -c '%U %a' /root/.ssh /root/.ssh/authorized_keys";
    for links in HOME_LINKS {
        sandbox.delete(".ssh .config");
        sandbox.sh(links);
        let outcome = provision();
        if outcome.code != 0 {
            assert!(
                outcome.stderr.contains("/home/pixel/"),
                "{links}: {outcome:?}"
            );
        }
        sandbox.check_root_files(links);
    }
    sandbox.delete(".ssh .config");
    provision().ok();
    let seen =
        sandbox.sh("cat .ssh/authorized_keys; stat -c '%U %a' .ssh .ssh/* .config .config/mise/*");
    let modes = "pixel 700\npixel 600\npixel 755\npixel 644\n";
    assert_eq!(seen, format!("{key}{modes}"));
    assert_eq!(
        sandbox.exec("root", root_ssh).ok().stdout,
        "root 700\nroot 600\n"
    );

    // The step, without the downloads.
    sandbox.sh(
        "mkdir -p .local/bin; printf '#!/bin/sh\\n' >.local/bin/mise; chmod 755 .local/bin/mise; \
         ln -sf /victim/key .bashrc",
    );
    let step = "/usr/local/lib/pixels/steps/devtools";
    let _ = sandbox.exec("root", step);
    sandbox.check_root_files("a link at .bashrc");
    sandbox.delete(".bashrc");
    sandbox.exec("root", step).ok();
    sandbox.exec("root", step).ok();
    assert_eq!(
        sandbox.sh("stat -c %U .bashrc; grep -c mise .bashrc"),
        "pixel\n1\n"
    );
}
