//! Output of commands: results, messages, JSON, completions and man pages.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::support::env::{BINARY, Outcome, TestEnv};
use crate::support::pty::Pty;
use crate::support::{lab, tree, wait};

/// An environment without a server: every request fails with exit code 5.
fn nowhere() -> TestEnv {
    let mut env = TestEnv::bare();
    env.set("PIXELS_INCUS_SOCKET", "/nowhere/unix.socket");
    env
}

#[track_caller]
fn assert_plain(outcome: &Outcome) {
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(!text.contains(['\x1b', '\r']), "{text:?}");
    }
}

#[track_caller]
fn assert_contains(text: &str, expected: &[&str]) {
    for part in expected {
        assert!(text.contains(part), "{part:?} not found in: {text}");
    }
}

/// Parses each line as a JSON document.
#[track_caller]
fn documents(text: &str) -> Vec<serde_json::Value> {
    let document = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(document).collect()
}

#[test]
fn invalid_usage_fails_before_any_request() {
    let env = nowhere();
    for (value, rule) in [
        ("Bad", "only a-z, 0-9 and - are allowed"),
        ("a_b", "only a-z, 0-9 and - are allowed"),
        ("ü", "only a-z, 0-9 and - are allowed"),
        ("a/../b", "only a-z, 0-9 and - are allowed"),
        ("a b", "only a-z, 0-9 and - are allowed"),
        ("", "it is empty"),
        ("px-", "it is empty"),
        ("a-", "must not begin or end with a dash"),
        (&"a".repeat(61), "at most 60 characters"),
        ("gateway", "it is reserved"),
    ] {
        for command in [
            vec!["create", value],
            vec!["start", value],
            vec!["stop", value],
            vec!["destroy", "--force", "a", value],
            vec!["exec", value, "--", "true"],
            vec!["console", value],
            vec!["fork", value],
            vec!["fork", "a", "--prefix", value],
            vec!["create", "a", "--from", value],
            vec!["checkpoint", "create", value],
            vec!["checkpoint", "list", value],
            vec!["checkpoint", "restore", value, "l"],
            vec!["checkpoint", "delete", value, "l"],
        ] {
            let refused = env.pixels(&command).expect(2);
            assert_contains(&refused.stderr, &[&format!("{value:?}"), rule]);
            assert_eq!(refused.stdout, "", "{command:?}");
        }
    }
    for command in [
        vec!["checkpoint", "create", "a", "--label", "a b"],
        vec!["checkpoint", "restore", "a", "A"],
        vec!["checkpoint", "delete", "a", ".."],
        vec!["create", "a", "--from", "b:"],
        vec!["create", "a", "--from", "b:c:d"],
        vec!["fork", "a:ü"],
        vec!["fork", "a", "-n", "0"],
        vec!["fork", "a", "-n", "1001"],
        vec!["fork", "a", "-n", "x"],
        vec!["create", "a", "--memory", "x"],
        vec!["create", "a", "--memory", "4"],
        vec!["create", "a", "--cpu", "0"],
        vec!["create", "a", "--cpu", "two"],
        vec!["create", "a", "--image", "x", "--from", "b"],
        vec!["create", "a", "--egress", "sometimes"],
        vec!["list", "extra"],
        vec!["list", "-o", "yaml"],
        vec!["nonsense"],
        vec!["destroy"],
        vec!["exec", "a"],
        vec!["list", "--config", "/nowhere/config.toml"],
    ] {
        let refused = env.pixels(&command).expect(2);
        assert_eq!(refused.stdout, "", "{command:?}");
        assert_plain(&refused);
        let json = env.pixels([vec!["--json"], command.clone()].concat());
        let error = json.expect(2).error();
        assert_eq!(error["kind"], "usage", "{command:?}");
        assert_eq!(error["exit_code"], 2, "{command:?}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    // An error cause is printed once.
    let folder = env.pixels(["list", "--config", "/"]).expect(2).stderr;
    assert_eq!(folder.matches("Is a directory").count(), 1, "{folder}");
    // A command that sends a request reports an unreachable server.
    let lost = env.pixels(["list"]).expect(5);
    assert_contains(&lost.stderr, &["/nowhere/unix.socket", "hint: "]);
    let lost = env.pixels(["list", "--output=json"]).expect(5).error();
    assert_eq!(lost["kind"], "unreachable");
    assert!(lost["hint"].as_str().unwrap().contains("pixels setup"));
}

#[test]
fn version_help_and_man_pages_are_complete() {
    let env = nowhere();
    let version = env.pixels(["--version"]).ok().stdout;
    let commit = version
        .strip_prefix(&format!("pixels {} (", env!("CARGO_PKG_VERSION")))
        .and_then(|rest| rest.strip_suffix(")\n"))
        .unwrap_or_else(|| panic!("{version}"));
    assert!(
        commit == "unknown" || commit.len() >= 7 && commit.chars().all(|c| c.is_ascii_hexdigit()),
        "{version}"
    );
    let help = env.pixels(["--help"]).ok().stdout;
    let codes = ["3 not found", "124 timed out", "130 and 143 interrupted"];
    assert_contains(&help.replace('\n', " "), &codes);
    // A command group without a subcommand prints its help.
    let bare = env.pixels([""; 0]).ok();
    assert_contains(&bare.stdout, &["Usage: pixels"]);
    assert_eq!(bare.stderr, "");

    let page = env.pixels(["man"]).ok().stdout;
    assert_contains(&page, &[".TH pixels 1"]);
    let dir = env.home().join("man/of pixels");
    let quiet = env.pixels(["man", "--dir", dir.to_str().unwrap()]).ok();
    assert_eq!(quiet.stdout, "");
    let pages: BTreeSet<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for page in ["pixels.1", "pixels-create.1", "pixels-checkpoint-restore.1"] {
        assert!(pages.contains(page), "{pages:?}");
    }
    // `man` writes one page for each command in `pixels --help`.
    for command in tree::listed(&help) {
        assert!(pages.contains(&format!("pixels-{command}.1")), "{command}");
        let reported = env.pixels([&command, "--help"]).ok().stdout;
        assert_contains(&reported, &[&format!("Usage: pixels {command}")]);
    }
    let file = env.home().join("file");
    std::fs::write(&file, "").unwrap();
    let refused = env.pixels(["man", "--dir", file.to_str().unwrap()]);
    assert_contains(&refused.expect(1).stderr, &["file"]);
}

#[test]
fn configured_ssh_key_missing_prints_warning() {
    let mut env = nowhere();
    env.set("PIXELS_PROVISION_ENABLED", "true");
    let usual = env.pixels(["create", "a"]).expect(5);
    assert!(!usual.stderr.contains("SSH key"), "{}", usual.stderr);
    env.set("PIXELS_SSH_KEY", "/nowhere/key");
    let named = env.pixels(["create", "a"]).expect(5);
    let printed = "warning: no SSH key for the pixel: cannot read /nowhere/key.pub";
    assert_contains(&named.stderr, &[printed]);
}

#[test]
fn config_show_prints_origins_and_masks_secrets() {
    let mut env = nowhere();
    env.config(
        "[truenas]\napi_key = \"1-verysecret\"\n[defaults]\ncpu = \"3\"\n\
         [network]\negres = \"agent\"\n[env]\nTOKEN = \"envsecret\"\n",
    );
    let file = env.home().join(".config/pixels/config.toml");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&file, mode).unwrap();
    env.set("PIXELS_DEFAULT_MEMORY", "777");
    let shown = env.pixels(["config", "show"]).ok();
    let settings = [
        "defaults.cpu = \"3\"\n",
        "defaults.memory = 777\n",
        "truenas.api_key = \"***\"\n",
    ];
    assert_contains(&shown.stdout, &settings);
    // `config` warns about an unknown key with a suggestion, and about a secret
    // that other users can read.
    let warnings = [
        "network.egres ",
        "network.egress",
        "config.toml",
        "chmod 600",
    ];
    assert_contains(&shown.stderr, &warnings);

    let origins = env.pixels(["config", "show", "--origin"]).ok();
    let row = |key: &str| {
        origins
            .stdout
            .lines()
            .find(|line| line.split_whitespace().next() == Some(key))
            .unwrap_or_else(|| panic!("no {key}"))
            .to_owned()
    };
    assert!(row("backend").ends_with("default"));
    assert!(row("defaults.cpu").ends_with("config.toml"));
    assert!(row("defaults.memory").ends_with("env PIXELS_DEFAULT_MEMORY"));

    let json = env.pixels(["config", "show", "--json"]).ok();
    let entries = json.json();
    let value = |key: &str| {
        let mut entries = entries.as_array().unwrap().iter();
        entries.find(|entry| entry["key"] == key).unwrap()["value"].clone()
    };
    assert_eq!(value("truenas.api_key"), "***");
    assert_eq!(value("defaults.memory"), 777);
    assert_eq!(value("network.allow"), serde_json::json!([]));
    assert_eq!(value("mcp.bases.node")["from"], "dev");
    // With JSON output, warnings are JSON documents too.
    for document in documents(&json.stderr) {
        assert!(document["warning"].is_string(), "{document}");
    }
    for outcome in [&shown, &origins, &json] {
        for text in [&outcome.stdout, &outcome.stderr] {
            assert!(!text.contains("verysecret"), "{text}");
        }
    }
    // `-vv` logs requests without secrets.
    let loud = env.pixels(["-vv", "list"]).expect(5);
    assert!(!loud.stderr.contains("secret"), "{}", loud.stderr);

    env.set("PIXELS_DEFAULT_MEMORY", "much");
    for args in [&["config", "show"][..], &["exec", "a", "--", "true"]] {
        let bad = env.pixels(args).expect(2);
        assert_contains(&bad.stderr, &["PIXELS_DEFAULT_MEMORY", "much"]);
    }
}

#[test]
#[ignore = "needs Incus"]
fn results_go_to_stdout_and_messages_to_stderr() {
    lab::ready();
    let env = TestEnv::new("output");
    let (a, missing) = (env.name("a"), env.name("missing"));
    let px = format!("px-{a}");

    // Checks the JSON output of every command.
    let json = |args: &[&str]| {
        let outcome = env.pixels([args, &["--json"]].concat()).ok();
        assert_plain(&outcome);
        assert_eq!(outcome.stderr, "", "{args:?}");
        documents(&outcome.stdout)
    };
    let created = json(&["create", &a]);
    assert_eq!(created[0]["name"], a);
    assert_eq!(created[0]["instance"], px);
    assert_eq!(created[0]["status"], "RUNNING");
    assert!(created[0]["elapsed_ms"].is_u64());
    let cp = json(&["checkpoint", "create", &a, "--label", "one"]);
    assert_eq!(
        (&cp[0]["name"], &cp[0]["label"]),
        (&a.clone().into(), &"one".into())
    );
    let all = json(&["checkpoint", "list", &a]);
    assert_eq!(all[0][0]["label"], "one");
    assert!(all[0][0]["created_at"].as_str().unwrap().ends_with('Z'));
    let forked = json(&["fork", &format!("{a}:one"), "-n", "2"]);
    assert_eq!(forked.len(), 2);
    for one in &forked {
        assert_eq!(one["from"], format!("{a}:one"));
        assert!(one["name"].as_str().unwrap().starts_with(&format!("{a}-")));
    }
    let listed = json(&["list"]);
    let mut listed = listed[0].as_array().unwrap().iter();
    let one = listed.find(|pixel| pixel["name"] == a).unwrap();
    assert_eq!(one["instance"], px);
    for key in "status ip image cpu memory created_at from".split(' ') {
        assert!(one.get(key).is_some(), "{key}: {one}");
    }
    assert_eq!(json(&["stop", "--force", &a])[0]["status"], "STOPPED");
    let restored = json(&["checkpoint", "restore", &a, "one"]);
    assert_eq!(restored[0]["label"], "one");
    let started = json(&["start", &a]);
    assert_eq!(started[0]["status"], "RUNNING");
    assert!(started[0]["ip"].is_string(), "{started:?}");
    let deleted = json(&["checkpoint", "delete", &a, "one"]);
    assert_eq!(deleted[0]["deleted"], true);
    let pruned = json(&["prune", "--dry-run"]);
    assert_eq!(pruned, [serde_json::json!([])]);

    // A failure prints one JSON document to stderr and nothing to stdout.
    let none = env.name("none");
    for (code, kind, line) in [
        (4, "already_exists", format!("create {a}")),
        (3, "not_found", format!("create {missing} --from {none}")),
        (3, "not_found", format!("create {missing} --from {a}:none")),
        (3, "not_found", format!("fork {a}:none -n 2")),
        (3, "not_found", format!("fork {missing} -n 2")),
        (3, "not_found", format!("start {missing}")),
        (3, "not_found", format!("stop {missing}")),
        (3, "not_found", format!("destroy --force {missing}")),
        (3, "not_found", format!("destroy {missing}")),
        (2, "usage", format!("destroy {a}")),
        (3, "not_found", format!("checkpoint create {missing}")),
        (3, "not_found", format!("checkpoint list {missing}")),
        (3, "not_found", format!("checkpoint restore {missing} x")),
        (3, "not_found", format!("checkpoint restore {a} x")),
        (3, "not_found", format!("checkpoint delete {missing} x")),
        (3, "not_found", format!("checkpoint delete {a} x")),
        (125, "not_found", format!("exec {missing} true")),
        (2, "usage", format!("console {a}")),
    ] {
        let args: Vec<&str> = ["--json"].into_iter().chain(line.split(' ')).collect();
        let failed = env.pixels(&args).expect(code);
        assert_eq!(failed.stdout, "", "{args:?}");
        let error = failed.error();
        assert_eq!(error["kind"], kind, "{args:?}");
        assert_eq!(error["exit_code"], code, "{args:?}");
        assert!(error["message"].as_str().unwrap().len() > 5, "{args:?}");
        if kind == "not_found" || kind == "already_exists" {
            assert_contains(error["hint"].as_str().unwrap(), &["pixels "]);
        }
        // Without `--json`, the same failure is printed as text.
        let failed = env.pixels(&args[1..]).expect(code);
        let mut printed = failed.stderr.lines();
        assert!(printed.any(|it| it.starts_with("Error: ")), "{failed:?}");
        assert_plain(&failed);
    }
    let which = env.pixels(["create", &missing, "--from", &format!("{a}:none")]);
    let printed = format!("checkpoint \"none\" of pixel {a:?} not found");
    assert_contains(&which.expect(3).stderr, &[&printed]);

    // Several failures print one JSON document per line.
    let both = env.pixels(["--json", "destroy", "-f", &missing, &none]);
    let both = both.expect(3).stderr;
    assert_eq!(documents(&both).len(), 2, "{both}");

    // Without a terminal, output has no color and no spinner.
    let table = env.pixels(["list"]).ok();
    assert_plain(&table);
    assert_eq!(table.stderr, "");
    assert!(table.stdout.starts_with("NAME"), "{}", table.stdout);
    let quiet = env.pixels(["-q", "checkpoint", "create", &a]).ok();
    assert_eq!((&*quiet.stdout, &*quiet.stderr), ("", ""));
    let quiet = env.pixels(["-q", "checkpoint", "list", &a]).ok();
    assert!(quiet.stdout.starts_with("LABEL"), "{}", quiet.stdout);
    let prefix = env.name("q");
    let quiet = env.pixels(["-q", "fork", &a, "-n", "1", "--prefix", &prefix]);
    assert_eq!(quiet.ok().stdout, format!("{prefix}-1\n"));
    let quiet = env.pixels(["-q", "start", &missing]).expect(3);
    assert!(quiet.stderr.starts_with("Error: "), "{}", quiet.stderr);
    let verbose = env.pixels(["-v", "create", &env.name("v"), "--from", &a]);
    let verbose = verbose.ok();
    assert_contains(&verbose.stderr, &["cloning"]);
    assert_plain(&verbose);

    // Without a terminal, `destroy` does not prompt and deletes nothing.
    let asked = env.pixels(["destroy", &a]).expect(2);
    assert_contains(&asked.stderr, &[&format!("pixels destroy --force {a}")]);
    env.pixels(["exec", &a, "--", "true"]).ok();

    // A reader that closes the pipe early causes no error.
    let mut early = env.spawn(["list"]);
    drop(early.stdout.take());
    assert_eq!(wait::exit_code(&mut early), 0);
    let printed = std::io::read_to_string(early.stderr.take().unwrap());
    assert_eq!(printed.unwrap(), "");
}

#[test]
#[ignore = "needs Incus"]
fn create_with_unknown_image_fails() {
    lab::ready();
    let mut env = TestEnv::new("images");
    env.set("PIXELS_INCUS_IMAGE_SERVER", "https://127.0.0.1:1");
    let refused = env.pixels(["create", &env.name("a"), "--image", "no/such"]);
    let printed = ["https://127.0.0.1:1", "\"no/such\"", "hint: "];
    assert_contains(&refused.expect(5).stderr, &printed);
    assert_eq!(env.remaining(), [""; 0]);
}

#[test]
fn color_needs_terminal_and_respects_variables() {
    let run = |vars: &[(&str, &str)], args: &[&str]| {
        let mut env = nowhere();
        env.set("TERM", "xterm");
        for (key, value) in vars {
            env.set(key, value);
        }
        let mut on = Pty::pixels(&env, args);
        on.expect("nowhere");
        on.exit_code();
        on.screen()
    };
    assert!(run(&[], &["list"]).contains("\x1b["));
    for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let screen = run(&[plain], &["list"]);
        assert!(!screen.contains('\x1b'), "{screen:?}");
    }
    let screen = run(&[], &["list", "--json"]);
    assert!(!screen.contains('\x1b'), "{screen:?}");
}

#[test]
fn completion_scripts_match_their_shells() {
    let env = nowhere();
    for (shell, words) in [
        ("bash", "complete -o"),
        ("zsh", "#compdef pixels"),
        ("fish", "complete --keep-order"),
    ] {
        let script = env.pixels(["completions", shell]).ok().stdout;
        assert!(script.contains(words), "{shell}: {script}");
        let file = env.home().join(shell);
        std::fs::write(&file, script).unwrap();
        let checked = Command::new(shell).arg("-n").arg(&file).output();
        // Skips shells that are not installed.
        let Ok(checked) = checked else { continue };
        assert!(
            checked.status.success(),
            "{shell}: {}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
    env.pixels(["completions", "tcsh"]).expect(2);
}

/// Bash completions for the last of `words`. Bash splits words at colons, and
/// each colon is a word.
fn bash(env: &TestEnv, words: &[&str]) -> BTreeSet<String> {
    let folder = Path::new(BINARY).parent().unwrap();
    let script = r#"
        source <(pixels completions bash)
        complete -p pixels >/dev/null || exit 1
        function=$(complete -p pixels | sed 's/.* -F \([^ ]*\) .*/\1/')
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        COMP_TYPE=9
        current=${COMP_WORDS[COMP_CWORD]}
        [ "$current" = : ] && current=""
        "$function" pixels "$current" "${COMP_WORDS[COMP_CWORD-1]}" 2>/dev/null
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let mut command = env.program("bash", ["-c", script, "bash"]);
    command.args(words);
    let mut path = folder.as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let output = command.env("PATH", path).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let typed = words.last().unwrap();
    shown
        .lines()
        .map(str::trim_end)
        // Options are offered beside names if nothing is typed yet.
        .filter(|line| !line.is_empty() && (!line.starts_with('-') || typed.starts_with('-')))
        .map(str::to_owned)
        .collect()
}

#[test]
#[ignore = "needs Incus"]
fn completion_lists_pixels_checkpoints_and_files() {
    lab::ready();
    let env = TestEnv::new("complete");
    let (a, b) = (env.name("a"), env.name("b"));
    env.pixels(["create", &a]).ok();
    for label in ["ready", "red.1"] {
        env.checkpoint(&a, label);
    }
    let from = format!("{a}:ready");
    env.pixels(["create", &b, "--from", &from]).ok();
    let of = |all: &[&str]| -> BTreeSet<String> { all.iter().map(|s| (*s).to_owned()).collect() };
    let begin = &a[..a.len() - 1];

    assert!(bash(&env, &["pixels", "che"]).contains("checkpoint"));
    assert!(bash(&env, &["pixels", "create", "--im"]).contains("--image"));
    for command in ["start", "stop", "destroy", "exec", "console"] {
        let offered = bash(&env, &["pixels", command, begin]);
        assert_eq!(offered, of(&[&a, &b]), "{command}");
    }
    let second = bash(&env, &["pixels", "destroy", "-f", &a, begin]);
    assert!(second.contains(&b), "{second:?}");

    for line in [
        vec!["pixels", "create", "x", "--from"],
        vec!["pixels", "fork"],
    ] {
        let with = |words: &[&str]| bash(&env, &[&line[..], words].concat());
        let (ready, red) = (format!("{a}:ready"), format!("{a}:red.1"));
        assert_eq!(with(&[begin]), of(&[&a, &b, &ready, &red]));
        // Bash replaces only the text after the colon.
        assert_eq!(with(&[&a, ":"]), of(&["ready", "red.1"]));
        assert_eq!(with(&[&a, ":", "rea"]), of(&["ready"]));
        assert_eq!(with(&[&b, ":"]), of(&[]));
    }
    for verb in ["restore", "delete", "rm"] {
        let all = bash(&env, &["pixels", "checkpoint", verb, &a, ""]);
        assert_eq!(all, of(&["ready", "red.1"]));
        let begun = bash(&env, &["pixels", "cp", verb, &a, "red"]);
        assert_eq!(begun, of(&["red.1"]));
    }
    let modes = bash(&env, &["pixels", "create", "x", "--egress", "a"]);
    assert_eq!(modes, of(&["agent", "allowlist"]));
    // Completes the paths of `push` and `pull`: local files and pixel names.
    let file = env.home().join("some file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let begun = file.strip_suffix(" file").unwrap();
    let pixel = format!("{a}:");
    for (verb, before) in [("push", None), ("pull", Some(&*pixel)), ("sync", None)] {
        let line: Vec<&str> = ["pixels", verb].into_iter().chain(before).collect();
        let with = |word: &str| bash(&env, &[&line[..], &[word]].concat());
        assert_eq!(with(begun), of(&[file]), "{verb}");
        assert!(with(&a[..a.len() - 1]).contains(&pixel), "{verb}");
    }
    // Without a server, completion prints nothing.
    let lost = bash(&nowhere(), &["pixels", "start", "a"]);
    assert_eq!(lost, of(&[]));
}
