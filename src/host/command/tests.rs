use std::io::Write;
use std::path::{Path, PathBuf};

use super::*;

#[test]
fn shown_as_a_shell_takes_it() {
    let line = CommandLine::new("apt-get", ["install", "-y", "a b", "", "it's"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    assert_eq!(
        line.to_string(),
        r"DEBIAN_FRONTEND=noninteractive apt-get install -y 'a b' '' 'it'\''s'"
    );
}

#[tokio::test]
async fn output_of_both_streams_arrives_in_order_with_the_exit_code() {
    let line = CommandLine::new("sh", ["-c", "echo a; echo b >&2; printf 'c\\rd'; exit 7"]);
    let mut seen = Vec::new();
    let outcome = run(&line, &mut |text| seen.push(text.to_owned()))
        .await
        .unwrap();
    assert_eq!(seen, ["a", "b", "c", "d"]);
    assert_eq!(outcome.tail, seen);
    assert_eq!(outcome.status.code(), Some(7));
}

#[tokio::test]
async fn only_the_last_lines_are_kept() {
    let line = CommandLine::new("seq", ["100"]);
    let outcome = run(&line, &mut |_| {}).await.unwrap();
    assert_eq!(outcome.tail.len(), TAIL);
    assert_eq!(outcome.tail.last().unwrap(), "100");
}

#[tokio::test]
async fn secrets_of_the_environment_stay_behind() {
    let line = CommandLine::new("env", [""; 0]).env("MINE", "yes");
    let mut seen = Vec::new();
    run(&line, &mut |text| seen.push(text.to_owned()))
        .await
        .unwrap();
    assert!(seen.contains(&"MINE=yes".to_owned()));
    assert!(!seen.iter().any(|l| l.starts_with("CARGO")), "{seen:?}");
}

fn fifo(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    path
}

/// Runs a script that begins with a line of output, drops it then, lets it
/// go on (FIFO `$2`), and returns what it writes to FIFO `$1` in the end.
async fn dropped(on_drop: OnDrop, script: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (said, go) = (fifo(dir.path(), "said"), fifo(dir.path(), "go"));
    let mut line = CommandLine::new("sh", ["-c", script, "sh"]);
    line.args
        .extend([&said, &go].map(|path| path.to_string_lossy().into_owned()));
    line.on_drop = on_drop;
    let on_event = tokio::task::spawn_blocking(move || std::fs::read_to_string(said).unwrap());
    let (tell, told) = tokio::sync::oneshot::channel();
    let mut tell = Some(tell);
    let mut on_line = move |_: &str| {
        tell.take().map(|tell| tell.send(()));
    };
    tokio::select! {
        ended = run(&line, &mut on_line) => panic!("it was to go on: {ended:?}"),
        begun = told => begun.unwrap(),
    }
    // Open for both, so that nobody has to be reading.
    let mut go = File::options().read(true).write(true).open(go).unwrap();
    go.write_all(b"go\n").unwrap();
    on_event.await.unwrap()
}

#[tokio::test]
async fn a_dropped_command_ends_with_its_children_and_its_traps() {
    let script = "exec 3>\"$1\"; trap 'echo cleaned >&3; exit 143' TERM; echo up; sleep 600";
    assert_eq!(dropped(OnDrop::Terminate, script).await, "cleaned\n");
}

#[tokio::test]
async fn a_package_manager_runs_on_when_dropped() {
    let script = "exec 3>\"$1\"; echo up; read -r word <\"$2\"; \
                  echo still here; echo \"$word\" >&3";
    assert_eq!(dropped(OnDrop::Finish, script).await, "go\n");
}
