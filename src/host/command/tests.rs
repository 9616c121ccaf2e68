use std::io::Write;
use std::path::{Path, PathBuf};

use super::*;

#[test]
fn display_quotes_as_a_shell_requires() {
    let line = CommandLine::new("apt-get", ["install", "-y", "a b", "", "it's"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    assert_eq!(
        line.to_string(),
        r"DEBIAN_FRONTEND=noninteractive apt-get install -y 'a b' '' 'it'\''s'"
    );
}

async fn run_and_collect(line: &CommandLine) -> (Outcome, Vec<String>) {
    let mut lines = Vec::new();
    let outcome = run(line, &mut |text| lines.push(text.to_owned()))
        .await
        .unwrap();
    (outcome, lines)
}

#[tokio::test]
async fn run_merges_stdout_and_stderr_in_order() {
    let line = CommandLine::new("sh", ["-c", "echo a; echo b >&2; printf 'c\\rd'; exit 7"]);
    let (outcome, lines) = run_and_collect(&line).await;
    assert_eq!(lines, ["a", "b", "c", "d"]);
    assert_eq!(outcome.tail, lines);
    assert_eq!(outcome.status.code(), Some(7));
}

#[tokio::test]
async fn tail_has_only_the_last_lines() {
    let (outcome, _) = run_and_collect(&CommandLine::new("seq", ["100"])).await;
    assert_eq!(outcome.tail.len(), TAIL_LINES);
    assert_eq!(outcome.tail.last().unwrap(), "100");
}

#[tokio::test]
async fn environment_of_caller_is_not_inherited() {
    let line = CommandLine::new("env", [""; 0]).env("MINE", "yes");
    let (_, lines) = run_and_collect(&line).await;
    assert!(lines.contains(&"MINE=yes".to_owned()));
    assert!(!lines.iter().any(|l| l.starts_with("CARGO")), "{lines:?}");
}

fn fifo(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    let created = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(created.unwrap().success());
    path
}

/// Runs `script`, drops the future after the first output line, writes a line
/// to FIFO `$2`, and returns the text that the script writes to FIFO `$1`.
async fn output_after_drop(on_drop: OnDrop, script: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (result, go) = (fifo(dir.path(), "result"), fifo(dir.path(), "go"));
    let mut line = CommandLine::new("sh", ["-c", script, "sh"]);
    line.args
        .extend([&result, &go].map(|path| path.to_string_lossy().into_owned()));
    line.on_drop = on_drop;
    let reading = tokio::task::spawn_blocking(move || std::fs::read_to_string(result).unwrap());
    let (started, has_started) = tokio::sync::oneshot::channel();
    let mut started = Some(started);
    let mut on_line = move |_: &str| {
        started.take().map(|started| started.send(()));
    };
    tokio::select! {
        exited = run(&line, &mut on_line) => panic!("the script exited: {exited:?}"),
        received = has_started => received.unwrap(),
    }
    // Open for both directions, so that the open does not wait for a reader.
    let mut go = File::options().read(true).write(true).open(go).unwrap();
    go.write_all(b"go\n").unwrap();
    reading.await.unwrap()
}

#[tokio::test]
async fn dropped_command_gets_sigterm_with_its_children() {
    let script = "exec 3>\"$1\"; trap 'echo cleaned >&3; exit 143' TERM; echo up; sleep 600";
    let output = output_after_drop(OnDrop::Terminate, script).await;
    assert_eq!(output, "cleaned\n");
}

#[tokio::test]
async fn dropped_package_manager_keeps_running() {
    let script = "exec 3>\"$1\"; echo up; read -r word <\"$2\"; \
                  echo still here; echo \"$word\" >&3";
    assert_eq!(output_after_drop(OnDrop::Finish, script).await, "go\n");
}
