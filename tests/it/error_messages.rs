//! A snapshot of error messages and hints. Run with `INSTA_UPDATE=always` to
//! record the snapshot, and review the difference.

use std::fmt::Write as _;

use crate::support::env::TestEnv;

/// Command lines that fail without a daemon, one per line.
const FAILING: &str = "
list
list --json
create A
create box --memory 4
create box --memory much
create box --cpu two
create box --ttl 0s
create box --ttl soon
create box --egress open
create box --egress agent --allow https://example.org
create box --from box:
create box
start box
stop box
destroy
destroy box
exec
exec box
exec box -- true
exec box --timeout 0s -- true
exec box -e 1A=b -- true
exec box -u 4294967296 -- true
console box
sessions box
status box
provision box
checkpoint create box --label Bad!
checkpoint restore box
fork box -n 0
fork box -n many
push missing box:x
push box:x box:y
pull box:x box:y
pull x y
sync a b
forward box 99999
forward box 1:2:3
forward stop
network set box open
network allow box
network allow box *
network allow box 0.0.0.0/0
network allow box example.org:99999
network check box 10.0.0.0/8
network deny box a/b
base build missing
base build
expire box soon
expire box
prune --force
mcp install --client emacs
mcp --port x
config show --origins
completions tcsh
man --dir
list --config /missing.toml
frobnicate
";

#[test]
fn error_messages_match_snapshot() {
    let mut env = TestEnv::bare();
    env.set("PIXELS_INCUS_SOCKET", "/nowhere/unix.socket");
    env.set("COLUMNS", "100");
    let home = env.home().display().to_string();
    let mut text = String::new();
    for line in FAILING.lines().filter(|line| !line.is_empty()) {
        let outcome = env.pixels(line.split(' '));
        assert_ne!(outcome.code, 0, "{line}: {outcome:?}");
        let stderr = outcome.stderr.replace(&home, "~");
        writeln!(text, "$ pixels {line}\n{}[{}]\n", stderr, outcome.code).unwrap();
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_path("../snapshots");
    settings.bind(|| insta::assert_snapshot!("error-messages", text));
}
