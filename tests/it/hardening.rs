//! What a hostile pixel, or another user of the server, gets from the server:
//! templates, secrets in the process list, sockets, locks and disk space.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::env::{BINARY, TestEnv, finished, spawn};
use crate::support::lab;
use crate::support::mcp::{on_lab, quick_base, text};
use crate::support::pty::Pty;
use crate::support::server::Server;
use crate::support::wait::eventually;

const OTHER_USER: u32 = 65534;

/// Adds a template for `/etc/hostname` to a pixel, for every trigger.
fn add_template(server: &Server, pixel: &str) {
    let metadata = format!("/1.0/instances/px-{pixel}/metadata");
    let file = format!("{metadata}/templates?path=hostname.tpl");
    server.done("POST", &file, &json!("written by the daemon"));
    let when = ["create", "copy", "start"];
    let template = json!({"when": when, "template": "hostname.tpl"});
    let templates = json!({"templates": {"/etc/hostname": template}});
    server.done("PUT", &metadata, &templates);
}

#[track_caller]
fn assert_no_template(server: &Server, pixel: &str) {
    let found = server.get(&format!("/1.0/instances/px-{pixel}/metadata"));
    assert!(
        found["templates"]
            .as_object()
            .is_none_or(|it| it.is_empty()),
        "{found}"
    );
}

#[test]
#[ignore = "needs Incus"]
fn templates_are_not_written_into_hostile_disks() {
    lab::ready();
    let env = TestEnv::new("templates");
    let server = Server::shared();
    let name = env.create("a");
    assert_no_template(&server, &name);
    assert_setup_image_has_no_template(&env, &server);

    let victim = env.home().join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    let plant = format!("ln -sf {} /etc/hostname", victim.display());
    env.sh(&name, &plant);
    add_template(&server, &name);
    let clone = env.name("b");
    env.pixels(["create", &clone, "--from", &name]).ok();
    assert_no_template(&server, &clone);
    assert_eq!(env.sh(&clone, "hostname"), format!("px-{clone}\n"));

    add_template(&server, &name);
    env.pixels(["stop", "--force", &name]).ok();
    env.pixels(["start", &name]).ok();
    assert_no_template(&server, &name);
    for pixel in [&name, &clone] {
        let link = env.sh(pixel, "readlink /etc/hostname");
        assert_eq!(link.trim(), victim.to_str().unwrap());
    }
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");

    let hosts = env.sh(
        &clone,
        "grep -c '^127[.]0[.]1[.]1' /etc/hosts; cat /etc/hosts",
    );
    assert!(
        hosts.starts_with("1\n") && hosts.contains("localhost"),
        "{hosts}"
    );
    assert!(
        hosts.contains(&format!("127.0.1.1 px-{clone}\n")),
        "{hosts}"
    );
}

/// Instances that other Incus clients create from the image of `setup` have no
/// templates.
fn assert_setup_image_has_no_template(env: &TestEnv, server: &Server) {
    let images = server.get("/1.0/images?recursion=1");
    let is_built = |image: &&Value| {
        let aliases = image["aliases"].as_array().unwrap();
        aliases
            .iter()
            .any(|alias| alias["name"].as_str().unwrap().starts_with("pixels/"))
    };
    let image = images.as_array().unwrap().iter().find(is_built).unwrap();
    let bare = env.name("bare");
    let source = json!({"type": "image", "fingerprint": image["fingerprint"]});
    let root = json!({"type": "disk", "path": "/", "pool": "default"});
    let name = format!("px-{bare}");
    let create = json!({"name": name, "source": source, "devices": {"root": root}});
    server.done("POST", "/1.0/instances", &create);
    assert_no_template(server, &bare);
    server.done("DELETE", &format!("/1.0/instances/px-{bare}"), &json!({}));
}

/// Reads the arguments and environments of all processes of the server as
/// another user, all the time, and collects values that begin with `tok_`.
struct Watcher(Child);

impl Watcher {
    fn start() -> Self {
        // The pattern does not match itself.
        let script = r#"
            $| = 1;
            undef $/;
            while (1) {
                for $path (</proc/[0-9]*/cmdline>, </proc/[0-9]*/environ>) {
                    open(my $file, "<", $path) or next;
                    for (<$file> =~ /to[k]_[a-z]+/g) {
                        print "$_\n" unless $seen{$_}++;
                    }
                }
            }
        "#;
        let mut command = Command::new("perl");
        command.args(["-e", script]).uid(OTHER_USER).gid(OTHER_USER);
        Self(spawn(&mut command))
    }

    fn stop(mut self) -> String {
        self.0.kill().unwrap();
        String::from_utf8(self.0.wait_with_output().unwrap().stdout).unwrap()
    }
}

#[test]
#[ignore = "needs Incus"]
fn secrets_do_not_appear_in_the_process_list() {
    let (mut env, server, client) = on_lab("secrets");
    let sandbox = client.sandbox("quick");
    let name = quick_base(&env);
    env.pixels(["start", &name]).ok();
    env.config("[env]\nFORWARDED = { forward = true }\n");
    env.set("FORWARDED", "tok_forwarded")
        .set("GIVEN", "tok_given\n 'x' \\ \u{401} ");
    let watcher = Watcher::start();
    // The control: another user sees the arguments of commands.
    env.pixels(["exec", &name, "--", "sh", "-c", "sleep 1; : tok_control"])
        .ok();

    // The command takes long enough to be seen, and reads its own input only.
    let show = "sleep 1; printf '%s|' \"$FORWARDED\" \"$GIVEN\"; cat";
    let expected = "tok_forwarded|tok_given\n 'x' \\ \u{401} |";
    let exec = ["exec", &name, "-e", "GIVEN", "--", "sh", "-c", show];
    let input = b"first line\n\0\xff\n";
    let mut child = env.spawn(exec);
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), input).unwrap();
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, [expected.as_bytes(), input].concat());

    let mut terminal = Pty::pixels(&env, ["exec", "-e", "GIVEN", &name, "--", "sh", "-c", show]);
    terminal.expect("tok_forwarded|tok_given");
    terminal.send("\x04");
    assert_eq!(terminal.exit_code(), 0);
    let mut console = Pty::pixels(&env, ["console", &name]);
    console.send("sleep 1; echo \"[\"$FORWARDED\"]\"; ls /dev/shm; exit\r");
    console.expect("[tok_forwarded]");
    assert_eq!(console.exit_code(), 0);
    assert!(
        !console.screen().contains("pixels-"),
        "{}",
        console.screen()
    );

    let variables = json!({"SECRET": "tok_mcp"});
    let command = ["sh", "-c", "sleep 1; echo $SECRET"];
    let arguments = json!({"name": sandbox, "command": command, "env": variables});
    let ran = client.call("exec", arguments.clone());
    assert_eq!(ran["stdout"], "tok_mcp\n", "{ran}");
    let job = text(&client.call("exec_start", arguments)["job_id"]);
    let poll = json!({"name": sandbox, "job_id": job, "wait_sec": 60});
    assert_eq!(client.call("exec_poll", poll)["stdout"], "tok_mcp\n");

    let seen = watcher.stop();
    assert_eq!(seen, "tok_control\n");
    assert_eq!(server.end(), 0);
}

/// Opens sockets of AF_VSOCK and prints which succeed.
const OPEN_VSOCK: &str = r#"
    use Config;
    print "libc " if socket(my $s, 40, 1, 0);
    # The kernel ignores the upper half of the argument.
    print "wide " if $Config{archname} =~ /^x86_64/ && syscall(41, 0x100000028, 1, 0) >= 0;
    my $parameters = "\0" x 120;
    print "io_uring " if syscall(425, 8, $parameters) >= 0;
    socket(my $t, 2, 1, 0) or print "no AF_INET ";
"#;

#[test]
#[ignore = "needs Incus"]
fn vsock_is_denied_and_disk_space_is_limited() {
    lab::ready();
    let pool = SmallPool::create();
    let mut env = TestEnv::new("limits");
    // Limits would slow down a pool with ordinary quota groups.
    let shared = Server::shared().get("/1.0/storage-pools/default");
    let default = match shared["config"]["user.pixels.simple-quotas"].as_str() {
        Some("true") => json!((10_u64 << 30).to_string()),
        _ => Value::Null,
    };
    let name = env.create("a");
    let clone = env.name("b");
    env.pixels(["create", &clone, "--from", &name]).ok();
    for pixel in [&name, &clone] {
        let opened = env.pixels(["exec", pixel, "--", "perl", "-e", OPEN_VSOCK]);
        assert_eq!(opened.ok().stdout, "");
        assert_eq!(env.listed(pixel)["disk"], default);
    }

    env.set("PIXELS_DEFAULT_POOL", &pool.0)
        .set("PIXELS_DEFAULT_DISK", "400");
    let [limited, same, larger] = ["c", "d", "e"].map(|short| env.name(short));
    env.pixels(["create", &limited]).ok();
    env.pixels(["create", &same, "--from", &limited]).ok();
    let args = ["create", &larger, "--from", &limited, "--disk", "1GiB"];
    env.pixels(args).ok();
    for (pixel, bytes) in [
        (&limited, 400 << 20),
        (&same, 400 << 20),
        (&larger, 1 << 30),
    ] {
        assert_eq!(env.listed(pixel)["disk"], bytes.to_string());
        let status = env.pixels(["status", pixel, "--json"]).ok().json();
        assert_eq!(status["disk"], bytes.to_string());
        let fill = "head -c 500M /dev/zero >/root/fill";
        let outcome = env.pixels(["exec", pixel, "--", "sh", "-c", fill]);
        match bytes {
            0x4000_0000 => outcome.ok(),
            _ => outcome.expect(1).reports("quota exceeded"),
        };
    }
    // A full disk does not prevent changes by the server's user.
    env.pixels(["expire", &limited, "2h"]).ok();
    env.pixels(["stop", "--force", &same]).ok();
    env.pixels(["start", &same]).ok();
    env.sh(&same, "rm /root/fill");
    let args = ["create", &env.name("f"), "--disk", "20"];
    env.pixels(args).expect(2).reports("20GiB");
}

/// A btrfs pool with disk limits, deleted with the value.
struct SmallPool(String);

impl SmallPool {
    fn create() -> Self {
        let name = format!("t-limits-{}", std::process::id());
        let config = json!({"size": "3GiB", "user.pixels.simple-quotas": "true"});
        let pool = json!({"name": name, "driver": "btrfs", "config": config});
        Server::shared().done("POST", "/1.0/storage-pools", &pool);
        Self(name)
    }
}

impl Drop for SmallPool {
    fn drop(&mut self) {
        let path = format!("/1.0/storage-pools/{}", self.0);
        let _ = Server::shared().try_done("DELETE", &path, &Value::Null);
    }
}

/// All users can create directories in /run/lock, where root's locks were.
#[test]
#[ignore = "needs Incus"]
fn lock_directory_of_another_user_is_not_used() {
    lab::ready();
    let env = TestEnv::new("locks");
    let name = env.create("a");
    let script = r#"
        use Fcntl ":flock";
        mkdir "/run/lock/pixels", 0777;
        chown 65534, 65534, "/run/lock/pixels";
        for (0..63) {
            open $files[$_], ">", "/run/lock/pixels/pixel-$_.lock" or die;
            flock $files[$_], LOCK_EX or die;
        }
        system @ARGV;
        exit $? >> 8;
    "#;
    let mounted = "mount -t tmpfs none /run/lock && exec perl -e \"$@\"";
    let mut command = env.program("unshare", ["--mount", "sh", "-c", mounted, "sh", script]);
    command.args([BINARY, "stop", "--force", &name]);
    finished(spawn(&mut command), Duration::from_secs(40)).ok();
    let stopped: Value = env.listed(&name)["status"].clone();
    assert_eq!(stopped, "STOPPED");
}

/// Takes objects that the kernel counts for the whole host: inotify instances,
/// fanotify groups, AIO contexts of 512 requests, and neighbor entries. The
/// arguments are their numbers. Prints the first failure or "complete", and
/// keeps the objects until the end of input.
const TAKE_KERNEL_OBJECTS: &str = r#"
    use Config;
    my ($inotify, $fanotify, $aio, $neighbors) = @ARGV;
    my ($inotify_init1, $fanotify_init, $io_setup) =
        $Config{archname} =~ /^x86_64/ ? (294, 300, 206) : (26, 262, 0);
    my @releases;
    # One process may not open enough files.
    sub take {
        my ($name, $number, $create) = @_;
        for (my $start = 0; $start < $number; $start += 500) {
            pipe(my $output, my $status);
            pipe(my $held, my $release);
            if (!fork) {
                close $release;
                close $_ for @releases;
                my $message = "complete";
                for ($start + 1 .. ($start + 500 < $number ? $start + 500 : $number)) {
                    $create->() or $message = "$name $_: $!", last;
                }
                syswrite $status, $message;
                close $status;
                sysread $held, my $end, 1;
                exit;
            }
            push @releases, $release;
            close $status;
            sysread $output, my $message, 100;
            $message eq "complete" or print "$message\n" and exit 1;
        }
    }
    take("inotify", $inotify, sub { syscall($inotify_init1, 0) >= 0 });
    take("fanotify", $fanotify, sub { syscall($fanotify_init, 0x200, 0) >= 0 });
    take("aio", $aio, sub { my $context = pack("Q", 0); syscall($io_setup, 512, $context) >= 0 });
    $SIG{PIPE} = "IGNORE";
    open my $ip, "|-", "ip -batch -";
    for (1 .. $neighbors) {
        my $address = sprintf "10.200.%d.%d", $_ >> 8, $_ & 255;
        print $ip "neigh replace $address lladdr 02:00:00:00:00:01 nud reachable dev eth0\n";
    }
    close $ip or print "neighbors\n" and exit 1;
    $| = 1;
    print "complete\n";
    <STDIN>;
"#;

#[test]
#[ignore = "needs Incus"]
fn kernel_limits_of_the_host_are_not_used_up_by_one_pixel() {
    lab::ready();
    let env = TestEnv::new("kernel");
    let [hostile, neighbor] = ["a", "b"].map(|short| env.create(short));
    let aio_requests = || -> u64 {
        let text = std::fs::read_to_string("/proc/sys/fs/aio-nr").unwrap();
        text.trim().parse().unwrap()
    };
    let take = ["perl", "-e", TAKE_KERNEL_OBJECTS];
    let exec = |pixel| [&["exec", pixel, "--"], &take[..]].concat();

    // More than the usual limits: 8192, 128, 65536 requests, 1024.
    let many = [&exec(&hostile)[..], &["9000", "200", "200", "1500"]].concat();
    let before = aio_requests();
    let mut child = env.spawn(many);
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(output.next().unwrap().unwrap(), "complete");
    assert!(aio_requests() >= before + 200 * 512);

    let one = ["1", "1", "1", "1"];
    let outcome = env.pixels([&exec(&neighbor)[..], &one].concat());
    assert_eq!(outcome.ok().stdout, "complete\n");
    let mut on_host = env.program(take[0], &take[1..]);
    on_host.args(["1", "1", "1", "0"]);
    let outcome = finished(spawn(&mut on_host), Duration::from_secs(20));
    assert_eq!(outcome.ok().stdout, "complete\n");

    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    // The kernel releases AIO contexts some time after the process exits.
    let is_released = || aio_requests() < before + 100 * 512;
    eventually("release of AIO contexts", is_released);
}
