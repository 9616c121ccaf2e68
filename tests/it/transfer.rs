//! Copies files and directories into and out of pixels, on a real daemon.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use crate::support::env::{Outcome, TestEnv};
use crate::support::git::git;
use crate::support::pty::Pty;
use crate::support::server::Server;
use crate::support::{lab, wait};

/// Size of the large file in bytes.
const LARGE: usize = 100_000_000;
/// The variable that overrides the size.
const LARGE_VARIABLE: &str = "PIXELS_TEST_LARGE";

pub struct Pixel {
    pub env: TestEnv,
    pub name: String,
    dir: TempDir,
}

impl Pixel {
    pub fn new(test: &str) -> Self {
        Self::on(TestEnv::new(test))
    }

    /// A pixel on the server of this environment.
    pub fn on(env: TestEnv) -> Self {
        let name = env.create("a");
        let dir = tempfile::tempdir().unwrap();
        Self { env, name, dir }
    }

    /// Deletes files of earlier cases, locally and in the pixel.
    pub fn cleared(mut self) -> Self {
        self.sh("rm -rf /w /new /victim /srv/* /usr/local/bin/tar");
        self.dir = tempfile::tempdir().unwrap();
        self
    }

    /// A local path.
    pub fn here(&self, path: &str) -> String {
        self.dir.path().join(path).display().to_string()
    }

    /// A path in the pixel, with the pixel's name.
    pub fn there(&self, path: &str) -> String {
        format!("{}:{path}", self.name)
    }

    pub fn run(&self, args: &[&str]) -> Outcome {
        self.env.pixels(args)
    }

    /// Pushes a local path to a path in the pixel.
    #[must_use]
    pub fn push(&self, from: &str, to: &str) -> Outcome {
        self.run(&["push", &self.here(from), &self.there(to)])
    }

    #[must_use]
    pub fn pull(&self, from: &str, to: &str) -> Outcome {
        self.run(&["pull", &self.there(from), &self.here(to)])
    }

    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.run(&["exec", &self.name, "--", "sh", "-c", script])
            .ok()
            .stdout
    }

    /// Installs a tar wrapper in the pixel that stops after some data, creates
    /// /srv/half, and continues when /srv/go exists.
    fn slow_tar(&self) {
        let script = "#!/bin/sh\n\
            half() { head -c 300000; touch /srv/half; \
            while [ ! -e /srv/go ]; do sleep 0.05; done; cat; }\n\
            case \"$*\" in\n\
            *-xpf*) half | /bin/tar \"$@\" ;;\n\
            *) /bin/tar \"$@\" | half ;;\n\
            esac\n";
        let path = self.there("/usr/local/bin/tar");
        let args = ["push", "--mode", "755", "-", &path];
        self.env.pixels_with(args, script.as_bytes()).ok();
    }

    /// Waits until the script prints this text.
    #[track_caller]
    pub fn comes_to(&self, script: &str, expected: &str) {
        let mut reported = String::new();
        let same = wait::within(Duration::from_secs(20), || {
            reported = self.sh(script);
            reported == expected
        });
        assert!(same, "{script}: {reported}");
    }

    #[track_caller]
    pub fn wait_for(&self, path: &str) {
        let script = format!("[ -e {path} ]");
        wait::eventually(path, || {
            self.run(&["exec", &self.name, "--", "sh", "-c", &script])
                .code
                == 0
        });
    }
}

/// Random bytes that do not compress.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Mode, modification time, link target and content of each path.
type Tree = BTreeMap<PathBuf, ((u32, i64, PathBuf), Vec<u8>)>;

/// Reads everything below a directory.
fn tree(top: &Path) -> Tree {
    let mut all = Tree::new();
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let target = fs::read_link(&path).unwrap_or_default();
            let mut content = Vec::new();
            if meta.is_file() {
                content = fs::read(&path).unwrap();
            }
            let name = path.strip_prefix(top).unwrap().to_owned();
            all.insert(name, ((meta.mode(), meta.mtime(), target), content));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    all
}

#[track_caller]
fn same(a: &str, b: &str) {
    let (a, b) = (tree(Path::new(a)), tree(Path::new(b)));
    let attributes = |tree: &Tree| -> Vec<_> {
        let entries = tree.iter();
        entries
            .map(|(name, entry)| (name.clone(), entry.0.clone()))
            .collect()
    };
    assert_eq!(attributes(&a), attributes(&b));
    assert!(a == b, "contents differ");
}

#[test]
#[ignore = "needs Incus"]
fn push_and_pull_preserve_contents() {
    lab::ready();
    let pixel = Pixel::new("many");
    let small = pixel.here("small");
    for folder in 0..20u64 {
        let folder_path = Path::new(&small).join(format!("d{folder}"));
        fs::create_dir_all(&folder_path).unwrap();
        for file in 0..100u64 {
            let content = noise(2048, folder * 100 + file + 1);
            fs::write(folder_path.join(format!("f{file}")), content).unwrap();
        }
    }
    pixel.push("small", "/srv/").ok();
    pixel.pull("/srv/small", "back").ok();
    same(&small, &pixel.here("back"));
    // Copies over the existing files.
    pixel.push("small", "/srv").ok();
    pixel.pull("/srv/small/.", "back").ok();
    same(&small, &pixel.here("back"));

    let size = std::env::var(LARGE_VARIABLE).map_or(LARGE, |text| text.parse().unwrap());
    let large = pixel.here("large");
    let mut file = fs::File::create(&large).unwrap();
    let block = noise(1_000_000, 7);
    for _ in 0..size / block.len() {
        file.write_all(&block).unwrap();
    }
    file.write_all(&block[..size % block.len()]).unwrap();
    drop(file);
    let reported = pixel
        .run(&["push", "--json", &large, &pixel.there("/srv/l")])
        .ok()
        .json();
    assert_eq!(reported["bytes"].as_u64(), Some(size as u64));
    pixel.pull("/srv/l", "l").ok();
    assert!(fs::read(&large).unwrap() == fs::read(pixel.here("l")).unwrap());
    let left = pixel.sh("ls -a /srv | grep pixels; true");
    assert_eq!(left, "");
}

#[test]
#[ignore = "needs Incus"]
fn push_and_pull_preserve_metadata() {
    lab::ready();
    tree_is_kept(&Pixel::new("tree"));
}

pub fn tree_is_kept(pixel: &Pixel) {
    let top = PathBuf::from(pixel.here("top"));
    fs::create_dir_all(top.join(".git/hooks")).unwrap();
    let long = "n".repeat(255);
    let raw = OsStr::from_bytes(b"\xff\xfe \n\t\\*?$`'\"");
    for name in [
        "empty",
        "-rf",
        "--help",
        " ",
        "größe 漢字 🦀",
        ".hidden",
        "..x",
        &long,
    ] {
        fs::write(top.join(name), name).unwrap();
    }
    fs::write(top.join("empty"), "").unwrap();
    fs::write(top.join(raw), "raw").unwrap();
    let folder = top.join("folder").join(&long).join("x");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(&long), "deep").unwrap();
    symlink("../no/such/../thing//", top.join("dangling")).unwrap();
    symlink("/etc/passwd", top.join("absolute")).unwrap();
    symlink("t".repeat(1000), top.join("long-link")).unwrap();
    fs::hard_link(top.join("-rf"), top.join("again")).unwrap();
    let hook = top.join(".git/hooks/post-checkout");
    fs::write(&hook, "#!/bin/sh\ntouch /srv/hook-ran\n").unwrap();
    for (name, mode) in [
        (".git/hooks/post-checkout", 0o755),
        ("empty", 0o400),
        (".git", 0o700),
    ] {
        fs::set_permissions(top.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let old = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let empty = fs::File::open(top.join("empty")).unwrap();
    empty.set_modified(old).unwrap();
    let holes = fs::File::create(top.join("holes")).unwrap();
    holes.set_len(300_000_000).unwrap();
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, top.join("pipe"), FileType::Fifo, mode, 0).unwrap();
    let contents = pixel.here("top/.");
    let plain = pixel.run(&["push", "--json", &contents, &pixel.there("/w")]);
    assert_eq!(plain.ok().json()["skipped"], 1);
    fs::remove_file(top.join("pipe")).unwrap();

    let reported = pixel.sh(
        "cd /w; stat -c '%a %U %Y' empty; stat -c %b holes; readlink absolute; \
         stat -c %h -- -rf; ls /srv/hook-ran 2>&1 | wc -l; cat /etc/passwd | head -c 5",
    );
    let lines: Vec<&str> = reported.lines().collect();
    assert_eq!(lines[0], "400 root 1000000000");
    assert!(lines[1].parse::<u64>().unwrap() < 1000, "{reported}");
    assert_eq!(lines[2..4], ["/etc/passwd", "2"]);
    pixel.pull("/w", "back").ok();
    same(&pixel.here("top"), &pixel.here("back"));
    let back = PathBuf::from(pixel.here("back"));
    assert!(back.join("holes").metadata().unwrap().blocks() < 1000);
    let ino = |name: &str| back.join(name).metadata().unwrap().ino();
    assert_eq!(ino("-rf"), ino("again"));
    assert!(!Path::new("/srv/hook-ran").exists());

    // A symbolic link at the destination of a directory is not followed.
    pixel.sh("rm -rf /w; mkdir /w /victim; ln -s /victim /w/folder");
    let _ = pixel.push("top/.", "/w");
    assert_eq!(pixel.sh("ls /victim"), "");
}

#[test]
#[ignore = "needs Incus"]
fn push_resolves_targets_streams_and_owners() {
    lab::ready();
    let pixel = Pixel::new("names");
    for name in ["a", "b"] {
        fs::write(pixel.here(name), name).unwrap();
    }
    // Copies like `cp`, and creates missing parents.
    pixel.push("a", "/x/new/name").ok();
    pixel.push("a", "/x").ok();
    let (a, b) = (pixel.here("a"), pixel.here("b"));
    pixel.run(&["push", &a, &b, &pixel.there("/x/two")]).ok();
    pixel.push("a", "rel").ok();
    let found = pixel.sh("cat /x/new/name /x/a /x/two/a /x/two/b /root/rel");
    assert_eq!(found, "aaaba");
    pixel.push("a", "/x/two/a/").expect(1);

    pixel.sh("mkdir /x/cold; ln -s /etc/passwd /x/cold/link");

    // Streams are binary and complete.
    let bytes = noise(3_000_000, 5);
    let to = pixel.there("/x/stream");
    let args = ["push", "--mode", "600", "-", &to];
    pixel.env.pixels_with(args, &bytes).ok();
    assert_eq!(pixel.sh("stat -c '%a %s' /x/stream"), "600 3000000\n");
    let out = pixel.env.command(["pull", &to, "-"]).output().unwrap();
    assert!(out.stdout == bytes && out.status.success());
    let none = pixel.there("/x/none");
    pixel.env.pixels_with(["push", "-", &none], b"").ok();
    assert_eq!(pixel.sh("stat -c '%a %s' /x/none"), "644 0\n");

    // The owner is the pixel's user, unless an option sets the owner.
    let path = format!("/1.0/instances/px-{}", pixel.name);
    let user = json!({"config": {"user.pixels.user": "ubuntu"}});
    Server::shared().done("PATCH", &path, &user);
    pixel.push("a", "deep/er/").ok();
    let to = pixel.there("b");
    pixel.run(&["push", "--owner", "0:7", &b, &to]).ok();
    let owners = "cd /home/ubuntu; stat -c %u:%g deep deep/er deep/er/a b | tr '\\n' ' '";
    assert_eq!(pixel.sh(owners), "1000:1000 1000:1000 1000:1000 0:7 ");
    let to = pixel.there("kept");
    pixel.run(&["push", "--archive", &a, &to]).ok();
    assert_eq!(pixel.sh("stat -c %u /home/ubuntu/kept"), "0\n");
    let mine = rustix::process::geteuid().as_raw();
    pixel.pull("deep", "deep").ok();
    assert_eq!(fs::metadata(pixel.here("deep/er/a")).unwrap().uid(), mine);

    for (args, code) in [
        (["pull", &pixel.there("/nope"), "x"], 3),
        (["push", &pixel.here("nope"), &pixel.there("/x")], 3),
        (["push", &a, "no-such-pixel:/x"], 3),
        (["push", &a, &b], 2),
        (["pull", &a, &b], 2),
        (["sync", &a, &b], 2),
        (["sync", &pixel.there("a"), &pixel.there("b")], 2),
        (["pull", &pixel.there("/x"), "-"], 2),
    ] {
        assert_eq!(pixel.run(&args).code, code, "{args:?}");
    }

    // Push and pull also work with a stopped pixel.
    pixel.run(&["stop", &pixel.name]).ok();
    pixel.push("a", "/x/cold/a").ok();
    pixel.pull("/x/cold", "cold").ok();
    assert_eq!(fs::read(pixel.here("cold/a")).unwrap(), b"a");
    let link = fs::read_link(pixel.here("cold/link")).unwrap();
    assert_eq!(link, Path::new("/etc/passwd"));
}

#[test]
#[ignore = "needs Incus"]
fn sync_copies_changes_and_respects_ignore_rules() {
    lab::ready();
    syncs(&Pixel::new("sync"));
}

pub fn syncs(pixel: &Pixel) {
    let src = PathBuf::from(pixel.here("src"));
    fs::create_dir_all(src.join("sub/build")).unwrap();
    for (name, text) in [
        ("a", "a"),
        ("sub/b", "b"),
        ("sub/build/out", "o"),
        ("x.log", "l"),
        (".gitignore", "*.log\nbuild/\n"),
        ("secret", "s"),
    ] {
        fs::write(src.join(name), text).unwrap();
    }
    let (from, to) = (src.display().to_string(), pixel.there("/w"));
    let sync = |more: &[&str], from: &str, to: &str| {
        let mut args = vec!["sync", "--json"];
        args.extend(more);
        args.extend([from, to]);
        pixel.run(&args).ok().json()
    };
    let list = |value: &serde_json::Value, key: &str| -> Vec<String> {
        let all = value[key].as_array().unwrap().iter();
        all.map(|one| one.as_str().unwrap().to_owned()).collect()
    };
    let rules = ["--gitignore", "--exclude", "/secret", "--delete"];
    let first = sync(&rules, &from, &to);
    assert_eq!(
        list(&first, "transferred"),
        [".gitignore", "a", "sub", "sub/b"]
    );
    let again = sync(&rules, &from, &to);
    assert!(list(&again, "transferred").is_empty() && list(&again, "removed").is_empty());

    // Excluded files are not deleted; other files are.
    pixel.sh("cd /w; touch old keep.log secret; mkdir -p gone/x; touch gone/x/y; ln -s /etc sub/l");
    fs::write(src.join("sub/b"), "changed").unwrap();
    fs::remove_file(src.join("a")).unwrap();
    fs::create_dir(src.join("a")).unwrap();
    let dry = sync(&[&rules[..], &["--dry-run"]].concat(), &from, &to);
    assert_eq!(pixel.sh("ls /w"), "a\ngone\nkeep.log\nold\nsecret\nsub\n");
    let next = sync(&rules, &from, &to);
    assert_eq!(list(&next, "removed"), ["a", "gone", "old", "sub/l"]);
    assert_eq!(list(&next, "transferred"), ["a", "sub/b"]);
    assert_eq!(list(&dry, "removed"), list(&next, "removed"));
    assert_eq!(
        pixel.sh("cd /w; ls; cat sub/b; ls /etc/passwd"),
        "a\nkeep.log\nsecret\nsub\nchanged/etc/passwd\n"
    );
    // An excluded ignore file still protects the files that it matches.
    let excluded = [&rules[..], &["--exclude", "/.gitignore", "--dry-run"]].concat();
    let none = sync(&excluded, &from, &to);
    assert_eq!(list(&none, "removed"), [""; 0]);

    // Synchronizes from the pixel.
    let back = pixel.here("back");
    sync(&["--gitignore"], &to, &back);
    let names = tree(Path::new(&back))
        .into_keys()
        .map(PathBuf::into_os_string);
    let names: Vec<_> = names.collect();
    assert_eq!(names, [".gitignore", "a", "secret", "sub", "sub/b"]);
    pixel.sh("cd /w; echo new >sub/c; rm secret");
    fs::write(Path::new(&back).join("x.log"), "mine").unwrap();
    let next = sync(&["--gitignore", "--delete"], &to, &back);
    assert_eq!(list(&next, "transferred"), ["sub/c"]);
    assert_eq!(list(&next, "removed"), ["secret"]);
    assert!(Path::new(&back).join("x.log").exists());

    // A change within the same second and with the same size is found.
    let write = |text: &str, millis: u64| {
        fs::write(src.join("sub/b"), text).unwrap();
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + millis);
        let file = fs::File::options().write(true).open(src.join("sub/b"));
        file.unwrap().set_modified(time).unwrap();
    };
    write("one", 100);
    sync(&rules, &from, &to);
    write("two", 600);
    let next = sync(&rules, &from, &to);
    assert_eq!(list(&next, "transferred"), ["sub/b"]);
    assert_eq!(pixel.sh("cat /w/sub/b"), "two");
    assert!(list(&sync(&rules, &from, &to), "transferred").is_empty());
    sync(&["--gitignore"], &to, &back);
    pixel.sh("cd /w/sub; printf 333 >b; touch -d @1700000000.7 b");
    let next = sync(&["--gitignore"], &to, &back);
    assert_eq!(list(&next, "transferred"), ["sub/b"]);
    assert_eq!(fs::read(Path::new(&back).join("sub/b")).unwrap(), b"333");
    assert!(list(&sync(&["--gitignore"], &to, &back), "transferred").is_empty());
}

/// Git hooks, and programs in the settings of a repository, are copied like
/// other files and not run.
#[test]
#[ignore = "needs Incus"]
fn pushed_repository_runs_no_hooks() {
    lab::ready();
    let pixel = Pixel::new("repo");
    let repo = PathBuf::from(pixel.here("repo"));
    fs::create_dir(&repo).unwrap();
    git(&repo, &["init", "-q"]);
    fs::write(repo.join("code"), "one\n").unwrap();
    git(&repo, &["add", "code"]);
    git(&repo, &["commit", "-q", "-m", "one"]);
    fs::write(repo.join("code"), "two\n").unwrap();
    let trap = repo.join(".git/hooks/trap");
    let ran = pixel.here("ran");
    fs::write(&trap, format!("#!/bin/sh\ntouch {ran} /ran\n")).unwrap();
    fs::set_permissions(&trap, fs::Permissions::from_mode(0o755)).unwrap();
    for hook in ["post-checkout", "pre-commit", "post-index-change"] {
        symlink("trap", repo.join(".git/hooks").join(hook)).unwrap();
    }
    let fsmonitor = trap.display().to_string();
    git(&repo, &["config", "core.fsmonitor", &fsmonitor]);
    fs::write(repo.join(".gitattributes"), "code filter=trap\n").unwrap();
    git(&repo, &["config", "filter.trap.clean", &fsmonitor]);
    let before = tree(&repo);

    let there = pixel.there("work");
    let mut push = pixel.env.command(["push", ".", &there]);
    assert!(push.current_dir(&repo).status().unwrap().success());
    assert_eq!(
        pixel.sh("cat work/.git/HEAD work/code"),
        "ref: refs/heads/main\ntwo\n"
    );
    assert_eq!(
        pixel.sh("readlink work/.git/hooks/pre-commit; ls -l work/.git/hooks/trap | cut -c1-10"),
        "trap\n-rwxr-xr-x\n"
    );
    let back = pixel.here("back");
    pixel.run(&["pull", &there, &back]).ok();
    let synced = pixel.here("synced");
    pixel.run(&["sync", "--gitignore", &there, &synced]).ok();
    for copy in [&back, &synced] {
        assert_eq!(tree(Path::new(copy)), before, "{copy}");
    }
    assert_eq!(pixel.sh("ls -d /ran || echo none"), "none\n");
    assert!(!Path::new(&ran).exists());
    // Confirms that git would run the program.
    let _ = std::process::Command::new("git")
        .arg("status")
        .current_dir(&back)
        .output();
    assert!(Path::new(&ran).exists());
}

#[test]
#[ignore = "needs Incus"]
fn killed_transfers_leave_no_partial_file() {
    lab::ready();
    leaves_nothing_half(&mut Pixel::new("killed"));
}

pub fn leaves_nothing_half(pixel: &mut Pixel) {
    pixel.env.set("TERM", "xterm");
    pixel.slow_tar();
    let (one, two) = (noise(100_000, 3), noise(4_000_000, 9));
    let src = PathBuf::from(pixel.here("src"));
    fs::create_dir(&src).unwrap();
    fs::write(src.join("1"), &one).unwrap();
    fs::write(src.join("2"), &two).unwrap();
    let from = src.display().to_string();
    pixel.sh("mkdir /w /new; echo before >/w/2");
    let halfway = |args: &[&str], signal: Signal| {
        pixel.sh("rm -f /srv/half /srv/go");
        let mut child = pixel.env.spawn(args);
        pixel.wait_for("/srv/half");
        kill_process(Pid::from_child(&child), signal).unwrap();
        pixel.sh("touch /srv/go");
        let code = wait::exit_code(&mut child);
        assert_eq!(code, if signal == Signal::KILL { 1009 } else { 130 });
    };
    for signal in [Signal::KILL, Signal::INT] {
        // Pushes to an existing directory and to a new directory.
        for to in ["/w", "/new/tree"] {
            let source = pixel.here(if to == "/w" { "src/." } else { "src" });
            halfway(&["push", &source, &pixel.there(to)], signal);
            let clean = "/new:\n\n/w:\n2\nbefore\n";
            pixel.comes_to("ls -A /w /new; cat /w/2", clean);
        }
        // A killed push from stdin leaves the old file.
        let mut child = pixel.env.spawn(["push", "-", &pixel.there("/w/2")]);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&two).unwrap();
        pixel.wait_for("/w/.pixels-*/content");
        kill_process(Pid::from_child(&child), signal).unwrap();
        wait::exit_code(&mut child);
        drop(stdin);
        pixel.comes_to("ls -A /w; cat /w/2", "2\nbefore\n");
    }

    pixel.sh("touch /srv/go; rm -rf /w");
    pixel.push("src", "/w").ok();
    for signal in [Signal::KILL, Signal::INT] {
        let to = TempDir::new().unwrap();
        fs::write(to.path().join("2"), "before").unwrap();
        let target = to.path().display().to_string();
        halfway(&["pull", &pixel.there("/w/."), &target], signal);
        let mut names: Vec<_> = fs::read_dir(to.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(fs::read(to.path().join("2")).unwrap(), b"before");
        if names.contains(&"1".to_owned()) {
            assert!(fs::read(to.path().join("1")).unwrap() == one);
        }
        names.retain(|name| name != "1");
        assert_eq!(names, ["2"]);
    }

    // The same pause shows the progress bar on a terminal.
    pixel.sh("rm -f /srv/half /srv/go; rm -rf /w");
    let mut pty = Pty::pixels(&pixel.env, ["push", &from, &pixel.there("/w")]);
    pty.expect("MiB");
    pty.expect("left");
    pixel.sh("touch /srv/go");
    pty.expect("Pushed 2 files");
    assert_eq!(pty.exit_code(), 0);
}
