//! Attempts to become root in a pixel that enforces its own policy, by files that
//! the user prepares for commands of the operator and for MCP calls. All must fail.

use std::cell::RefCell;
use std::fs;

use serde_json::{Value, json};

use crate::guest_file_links;
use crate::support::env::{Outcome, TestEnv};
use crate::support::lab;
use crate::support::mcp::{Client, McpServer, environment, text};

/// Files of root in a directory that all users can enter. The names are those
/// that pixels uses in temporary directories, and those of pushed files.
const VICTIM: &str = "
rm -f /etc/ld.so.preload
mkdir -p /victim/tree /victim/mise
for name in content done key gone tree/one authorized_keys mise/config.toml; do
    echo canary >/victim/$name
    chmod 600 /victim/$name
done
";

/// Owner, mode, size, mtime and content of root's files.
const SNAPSHOT: &str = "
set -- /victim /etc/shadow /etc/sudoers.d /etc/ld.so.preload
find \"$@\" -printf '%p %y %U:%G %m %s %T@\\n' 2>/dev/null
find \"$@\" -type f -exec sha256sum {} + 2>/dev/null
";

pub struct Sandbox {
    pub env: TestEnv,
    pub name: String,
    client: Client,
    /// Root's files before the next attempt.
    before: RefCell<String>,
    /// Attempts that did not fail.
    succeeded: RefCell<Vec<String>>,
}

impl Sandbox {
    pub fn exec(&self, user: &str, script: &str) -> Outcome {
        let args = ["exec", "-u", user, &self.name, "--", "sh", "-c", script];
        self.env.pixels(args)
    }

    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.exec("pixel", script).ok().stdout
    }

    pub fn there(&self, path: &str) -> String {
        format!("{}:{path}", self.name)
    }

    fn arguments(&self, path: &str, mut more: Value) -> Value {
        more["name"] = json!(self.name);
        more["path"] = json!(path);
        more
    }

    #[track_caller]
    fn call(&self, tool: &str, path: &str, more: Value) -> Value {
        self.client.call(tool, self.arguments(path, more))
    }

    fn snapshot(&self) -> String {
        self.exec("root", SNAPSHOT).stdout
    }

    fn record(&self, attempt: &str, how: &str) {
        let attempt = format!("{attempt}: {how}");
        self.succeeded.borrow_mut().push(attempt);
    }

    /// Sets the state of root's files with which later checks compare.
    pub fn accept_root_files(&self) {
        self.before.replace(self.snapshot());
    }

    /// Records an attempt that has changed files of root.
    pub fn check_root_files(&self, attempt: &str) {
        let (before, after) = (self.before.borrow().clone(), self.snapshot());
        if after == before {
            return;
        }
        let is_new = |line: &&str| !before.lines().any(|old| old == *line);
        let new: Vec<&str> = after.lines().filter(is_new).collect();
        self.record(attempt, &new.join("; "));
        self.exec("root", VICTIM).ok();
        self.accept_root_files();
    }

    /// Deletes entries of the home directory, of any owner.
    #[track_caller]
    pub fn delete(&self, names: &str) {
        let script = format!("cd /home/pixel && rm -rf {names}");
        self.exec("root", &script).ok();
    }
}

#[test]
#[ignore = "needs Incus"]
fn file_operations_have_the_rights_of_the_user() {
    lab::ready();
    let mut env = environment("rights");
    env.set("PIXELS_PROVISION_ENABLED", "true");
    env.config(
        "[network]\nplacement = \"pixel\"\negress = \"allowlist\"\n\
         [provision]\ndevtools = false\n[console]\nmultiplexer = \"none\"\n",
    );
    let server = McpServer::start(&env);
    let client = server.client();
    let create = json!({"image": "ubuntu/24.04", "wait_sec": 120});
    let created = client.call("create_sandbox", create);
    assert_eq!(created["status"], "running", "{created}");
    let sandbox = Sandbox {
        name: text(&created["name"]),
        env,
        client,
        before: RefCell::default(),
        succeeded: RefCell::default(),
    };
    assert_eq!(sandbox.sh("id -un; sudo -n id -u || true"), "pixel\n");
    sandbox.exec("root", VICTIM).ok();
    let before = sandbox.snapshot();
    assert!(before.contains("/etc/shadow") && before.contains("/victim/gone"));
    sandbox.before.replace(before);

    mcp_tools(&sandbox);
    jobs(&sandbox);
    transfers(&sandbox);
    guest_file_links::pushes_and_syncs(&sandbox);
    guest_file_links::provisioning(&sandbox);
    assert_eq!(server.end(), 0);
    let succeeded = sandbox.succeeded.borrow().join("\n");
    assert_eq!(succeeded, "");
}

fn mcp_tools(sandbox: &Sandbox) {
    sandbox.sh("ln -s /etc/shadow link; ln -s /etc/sudoers.d folder");
    let sudo = json!({"old_string": "/usr/local/bin/safe-apt,",
                      "new_string": "ALL, /usr/local/bin/safe-apt,"});
    let content = json!({"content": "pixel ALL=(ALL) NOPASSWD: ALL\n", "mode": "0440"});
    for (tool, path, more) in [
        ("edit_file", "/etc/sudoers.d/pixel", sudo),
        ("write_file", "/etc/sudoers.d/zz", content.clone()),
        ("write_file", "/home/pixel/folder/zz", content.clone()),
        ("write_file", "/victim/key", content.clone()),
        ("write_file", "/victim/new/file", content),
        ("read_file", "/etc/shadow", json!({})),
        ("read_file", "/home/pixel/link", json!({})),
        ("read_file", "/victim/key", json!({})),
        ("delete_file", "/victim/key", json!({})),
        ("read_file", "/dev/zero", json!({})),
    ] {
        let attempt = format!("{tool} {path}");
        match sandbox.client.try_call(tool, sandbox.arguments(path, more)) {
            Some(Err(_)) => {}
            other => sandbox.record(&attempt, &format!("{other:?}")),
        }
        sandbox.check_root_files(&attempt);
    }
    let root = sandbox.call("list_files", "/root", json!({}));
    if root["entries"] != json!([]) {
        sandbox.record("list_files", &root.to_string());
    }
    if sandbox.exec("pixel", "sudo -n id").code == 0 {
        sandbox.record("sudo", "root");
    }

    // The user's own files work as in every sandbox.
    let path = "/home/pixel/new/folder/a.sh";
    let content = json!({"content": "one two\n", "mode": "0750"});
    sandbox.call("write_file", path, content);
    sandbox.sh("ln -s new/folder/a.sh own");
    let edit = json!({"old_string": "two", "new_string": "2"});
    sandbox.call("edit_file", "/home/pixel/own", edit);
    let seen = sandbox.sh("cat own; stat -c '%a %U' new new/folder/a.sh; ls -A new/folder");
    assert_eq!(seen, "one 2\n755 pixel\n750 pixel\na.sh\n");
    let binary = json!({"content": "/wCA", "encoding": "base64"});
    sandbox.call("write_file", path, binary.clone());
    let read = sandbox.call("read_file", path, json!({}));
    assert_eq!(read["content"], binary["content"]);
    let large = "x".repeat(3_000_000);
    sandbox.call("write_file", path, json!({"content": large}));
    let read = sandbox.call("read_file", path, json!({"max_bytes": 4_000_000}));
    assert!(read["content"] == large.as_str() && read["truncated"] == false);
    let read = sandbox.call("read_file", path, json!({"max_bytes": 2}));
    assert_eq!(
        (&read["content"], &read["size"]),
        (&"xx".into(), &3_000_000.into())
    );
    sandbox.call("delete_file", path, json!({}));
    let list = sandbox.call("list_files", "/home/pixel/new", json!({"recursive": true}));
    assert_eq!(list["entries"].as_array().unwrap().len(), 1, "{list}");
    let missing = json!({"name": sandbox.name, "path": path});
    let missing = sandbox.client.refused("read_file", missing);
    assert!(missing.contains("not found"), "{missing}");
    sandbox.delete("link folder own new");
}

fn jobs(sandbox: &Sandbox) {
    let job = sandbox.client.job(&sandbox.name, "sleep 1111");
    let dir = format!(".local/state/pixels/jobs/{job}");
    sandbox.sh(&format!(
        "cd {dir}; ln -sf /etc/shadow stdout; ln -sf /victim/key stderr; ln -s /victim/new killed"
    ));
    let arguments = json!({"name": sandbox.name, "job_id": job});
    let polled = sandbox.client.call("exec_poll", arguments.clone());
    if polled["stdout"] != "" || polled["stderr"] != "" {
        sandbox.record("exec_poll", &polled.to_string());
    }
    let killed = sandbox.client.call("exec_kill", arguments);
    assert_ne!(killed["state"], "running", "{killed}");
    sandbox.check_root_files("exec_kill");

    // No process writes to these pipes: to open them would wait without end.
    let job = sandbox.client.job(&sandbox.name, "true");
    sandbox.sh(&format!(
        "cd .local/state/pixels/jobs/{job}; until [ -e code ]; do sleep 0.1; done
         rm stdout stderr code; mkfifo stdout stderr code"
    ));
    let arguments = json!({"name": sandbox.name, "job_id": job});
    let polled = sandbox.client.call("exec_poll", arguments);
    assert_eq!(polled["state"], "exited", "{polled}");
    assert_eq!(polled["exit_code"], Value::Null, "{polled}");
}

/// `push`, `pull` and `sync` work in the user's directories, and nowhere else.
fn transfers(sandbox: &Sandbox) {
    let here = tempfile::tempdir().unwrap();
    let local = |name: &str| here.path().join(name).display().to_string();
    let (run, there) = (
        |args: &[&str]| sandbox.env.pixels(args),
        |path: &str| sandbox.there(path),
    );
    fs::create_dir_all(local("dir/sub")).unwrap();
    fs::write(local("dir/sub/small"), "small").unwrap();
    fs::write(local("dir/.gitignore"), "ignored\n").unwrap();
    fs::write(local("large"), "x".repeat(17 << 20)).unwrap();
    for (from, to) in [("dir", "inbox/"), ("large", "inbox"), ("dir/.", "/tmp")] {
        run(&["push", &local(from), &there(to)]).ok();
    }
    let stream = there("inbox/stream");
    let args = ["push", "--mode", "600", "-", &stream];
    sandbox.env.pixels_with(args, b"text").ok();
    let seen = sandbox.sh("cd inbox; stat -c '%n %U %a %s' dir/sub/small large stream; ls -A");
    let expected = "dir/sub/small pixel 644 5\nlarge pixel 644 17825792\nstream pixel 600 4\n\
                    dir\nlarge\nstream\n";
    assert_eq!(seen, expected);
    assert_eq!(
        sandbox.sh("stat -c %U:%a /tmp /tmp/sub"),
        "root:1777\npixel:755\n"
    );
    let pulled = run(&["pull", &stream, "-"]).ok();
    assert_eq!(pulled.stdout, "text");
    run(&["pull", &there("inbox/dir"), &local("back")]).ok();
    assert_eq!(fs::read(local("back/sub/small")).unwrap(), b"small");
    sandbox.sh("touch inbox/dir/ignored inbox/dir/old");
    run(&[
        "sync",
        "--gitignore",
        "--delete",
        &local("dir"),
        &there("inbox/dir"),
    ])
    .ok();
    assert_eq!(sandbox.sh("ls inbox/dir"), "ignored\nsub\n");
    run(&["sync", "--gitignore", &there("inbox/dir"), &local("synced")]).ok();
    assert!(!fs::exists(local("synced/ignored")).unwrap());
    assert_eq!(fs::read(local("synced/sub/small")).unwrap(), b"small");

    sandbox.sh("ln -s /victim link; ln -s /etc/shadow shadow");
    let (dir, large) = (local("dir"), local("large"));
    let (owned, to) = (there("inbox/owned"), local("none"));
    for args in [
        &["push", &dir, &there("/victim/")][..],
        &["push", &dir, &there("link")],
        &["push", &large, &there("link/gone")],
        &["push", &large, &there("/victim/large")],
        &["push", "--owner", "root", &dir, &owned],
        &["push", "--archive", &dir, &owned],
        &["sync", "--owner", "0", &dir, &owned],
        &["sync", "--archive", &dir, &owned],
        &["sync", "--delete", &dir, &there("link")],
        &["pull", &there("shadow"), &to],
        &["pull", &there("shadow"), "-"],
        &["pull", &there("/victim"), &to],
    ] {
        let refused = run(args);
        assert_ne!(refused.code, 2, "{refused:?}");
        if refused.code == 0 {
            sandbox.record(&args.join(" "), "exited with 0");
        }
        sandbox.check_root_files(&args.join(" "));
    }
    // The files of a stopped pixel are accessible only with root's rights.
    run(&["stop", &sandbox.name]).ok();
    for args in [
        ["push", &dir, &there("link")],
        ["pull", &there("shadow"), &to],
    ] {
        let refused = run(&args);
        if refused.code != 1 || !refused.stderr.contains("is stopped") {
            sandbox.record(&args.join(" "), &format!("{refused:?}"));
        }
    }
    run(&["start", &sandbox.name]).ok();
    sandbox.check_root_files("push to a stopped pixel");
    sandbox.delete("link shadow inbox");
}
