//! A private Incus daemon for one test, which may kill, stop and configure the
//! daemon. The daemon's directory is named after the test process. This name
//! identifies all resources of the daemon, so that the test, or a later run
//! after a killed test, can remove them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::env::TestEnv;
use super::server::Server;
use super::wait::{eventually, within};

const INCUSD: &str = "/usr/libexec/incus/incusd";
/// Alias prefix of images built by `pixels setup`.
const IMAGE_PREFIX: &str = "pixels/";
const MARKER: &str = "px-t-incus-";
/// An instance without a disk image, which only reserves user ids.
pub const RESERVED_IDS: &str = "reserved-user-ids";

pub struct PrivateDaemon {
    dir: PathBuf,
    process: Option<Child>,
    pub server: Server,
    pub image: String,
}

impl PrivateDaemon {
    /// Starts a daemon with a pool, a bridge and an image.
    pub fn start() -> Self {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let me = std::process::id();
        let begun = begun(me).expect("no start time of the test process");
        let dir = std::env::temp_dir().join(format!("{MARKER}{me}-{begun}-{serial}"));
        fs::create_dir(&dir).unwrap();
        let mut daemon = Self {
            server: Server::at(dir.join("unix.socket")),
            dir,
            process: None,
            image: String::new(),
        };
        daemon.launch();
        daemon.server.done(
            "POST",
            "/1.0/storage-pools",
            &json!({"name": "default", "driver": "btrfs", "config": {"size": "2GiB"}}),
        );
        daemon.separate_user_ids(serial);
        daemon.make_bridge();
        daemon.take_image();
        daemon
    }

    /// An environment for pixels on this daemon, without a gateway.
    pub fn env(&self, test: &str) -> TestEnv {
        let mut env = self.isolated(test);
        env.set("PIXELS_NETWORK_PLACEMENT", "pixel");
        env
    }

    /// An environment for pixels on this daemon, behind a gateway.
    pub fn isolated(&self, test: &str) -> TestEnv {
        let mut env = TestEnv::new(test);
        // All daemons on a machine share the bridges of the host.
        env.set("PIXELS_NETWORK_BRIDGE", &self.segment())
            .set("PIXELS_INCUS_SOCKET", self.socket().to_str().unwrap())
            .set("PIXELS_DEFAULT_IMAGE", &self.image);
        env
    }

    /// The isolated bridge between pixels and gateway.
    pub fn segment(&self) -> String {
        segment(&self.dir)
    }

    /// The instance name of the gateway.
    pub fn gateway(&self) -> String {
        format!("px-gateway-{}", self.segment())
    }

    /// Stops the gateway. Ignores a gateway that is stopped or does not exist.
    pub fn stop_gateway(&self) {
        let body = json!({"action": "stop", "force": true, "timeout": 30});
        let path = format!("/1.0/instances/{}/state", self.gateway());
        let _ = self.server.try_done("PUT", &path, &body);
    }

    pub fn delete_gateway(&self) {
        let path = format!("/1.0/instances/{}", self.gateway());
        let _ = self.server.try_done("DELETE", &path, &Value::Null);
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("unix.socket")
    }

    pub fn server_certificate(&self) -> PathBuf {
        self.dir.join("server.crt")
    }

    /// Starts the daemon again with its previous state.
    pub fn resume(&mut self) {
        let bridges = [bridge(&self.dir), segment(&self.dir)];
        eventually("the daemon has its bridges", || {
            self.launch();
            let networks = self.server.get("/1.0/networks?recursion=1");
            let mut networks = networks.as_array().unwrap().iter();
            // Bridge creation can fail as in `make_bridge`. The daemon retries
            // only after a minute.
            let usable = networks.all(|network| {
                let ours = bridges.iter().any(|name| network["name"] == **name);
                !ours || network["status"] == "Created"
            });
            if !usable {
                self.kill();
            }
            usable
        });
    }

    fn launch(&mut self) {
        assert!(self.process.is_none(), "the daemon is already running");
        let log = |name: &str| File::create(self.dir.join(name)).unwrap();
        let child = Command::new("setsid")
            .arg(INCUSD)
            .arg("--logfile")
            .arg(self.dir.join("incusd.log"))
            .env("INCUS_DIR", &self.dir)
            // Prevent a download that tests do not need.
            .env("https_proxy", "http://127.0.0.1:1")
            .stdin(Stdio::null())
            .stdout(log("incusd.out"))
            .stderr(log("incusd.err"))
            .spawn()
            .unwrap();
        self.process = Some(child);
        let ready = within(Duration::from_secs(60), || {
            self.server
                .try_done("GET", "/internal/ready", &Value::Null)
                .is_ok()
        });
        assert!(
            ready,
            "the private daemon is not ready: {}",
            fs::read_to_string(self.dir.join("incusd.log")).unwrap_or_default()
        );
    }

    /// Kills the daemon. The containers keep running.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the daemon. The containers keep running.
    pub fn end(&mut self) {
        let Some(child) = &mut self.process else {
            return;
        };
        signal(child.id(), Signal::TERM);
        // The daemon waits for commands in pixels, some of which never end.
        let ended = within(Duration::from_secs(10), || {
            child.try_wait().is_ok_and(|status| status.is_some())
        });
        match ended {
            true => self.process = None,
            false => self.kill(),
        }
    }

    /// The directory of a pixel's disk.
    pub fn disk(&self, pixel: &str) -> PathBuf {
        let disks = self.dir.join("storage-pools/default/containers");
        disks.join(format!("px-{pixel}"))
    }

    /// Fills the pool until the returned guard is dropped.
    pub fn fill_pool(&self) -> Ballast {
        let pool = self.dir.join("storage-pools/default");
        let free = statvfs(&pool).unwrap();
        let path = pool.join("ballast");
        let file = File::create(&path).unwrap();
        let (mut at, mut step) = (0, free.f_bavail * free.f_frsize);
        while step > 1 << 20 {
            // Not all reported free space is available in one piece.
            match fallocate(&file, FallocateFlags::empty(), at, step) {
                Ok(()) => at += step,
                Err(_) => step /= 2,
            }
        }
        Ballast(path)
    }

    /// Waits until the daemon has completed all requests and operations,
    /// including those of clients that exited.
    #[track_caller]
    pub fn settle(&self) {
        let socket = format!(" {}", self.socket().display());
        // State 01 is the listening socket. All other states are connections,
        // including connections that are not accepted yet.
        let is_connection =
            |line: &str| line.ends_with(&socket) && line.split_whitespace().nth(5) != Some("01");
        let idle = || {
            let all = fs::read_to_string("/proc/net/unix").unwrap();
            !all.lines().any(is_connection)
        };
        eventually("the private daemon is idle", || {
            // An operation starts before the response to its request.
            idle() && self.server.idle() && idle()
        });
    }

    /// Suspends the daemon until the returned guard is dropped.
    pub fn freeze(&self) -> Frozen {
        let pid = self.process.as_ref().expect("no daemon process").id();
        signal(pid, Signal::STOP);
        eventually("the daemon is stopped", || {
            state(pid).is_some_and(|state| state == "T")
        });
        Frozen(pid)
    }

    /// Prints errors from the logs of the daemon and its containers.
    fn show_logs(&self) {
        let mut files = vec![self.dir.join("incusd.log")];
        let logs = fs::read_dir(self.dir.join("logs"));
        for entry in logs.into_iter().flatten().flatten() {
            files.extend(["forkexec.log", "lxc.log"].map(|name| entry.path().join(name)));
        }
        for file in files {
            let text = fs::read_to_string(&file).unwrap_or_default();
            let mut lines = text.lines().collect::<Vec<_>>();
            lines.retain(|line| line.to_lowercase().contains("error"));
            eprintln!("{}: {}", file.display(), lines.join("\n"));
        }
    }

    /// Makes the daemon give its pixels other user ids than other daemons do. The
    /// kernel counts some limits for a user id: a pixel of another daemon with the
    /// same ids that exhausts them would prevent a pixel of this daemon from starting.
    fn separate_user_ids(&self, serial: u32) {
        // The daemon gives each pixel 65536 ids, from the lowest that are free.
        // More pixels than any daemon has at once, of at most 1,000,000,000 ids.
        let reserved = 65536 * 150 * (serial % 100 + 1);
        let config = json!({
            "security.idmap.isolated": "true",
            "security.idmap.size": reserved.to_string(),
        });
        let root = json!({"type": "disk", "path": "/", "pool": "default"});
        self.server.done(
            "POST",
            "/1.0/instances",
            &json!({
                "name": RESERVED_IDS,
                "type": "container",
                "profiles": [],
                "config": config,
                "devices": {"root": root},
                "source": {"type": "none"},
            }),
        );
    }

    /// Creates the bridge, with a subnet that no other host interface uses.
    fn make_bridge(&self) {
        let taken = Command::new("ip")
            .args(["-o", "-4", "addr", "show"])
            .output();
        let taken = String::from_utf8(taken.unwrap().stdout).unwrap();
        let name = bridge(&self.dir);
        // Concurrent daemons choose different subnets by a random start.
        let begin = fastrand::u8(..);
        for number in (0..=255).map(|step| begin.wrapping_add(step)) {
            if taken.contains(&format!(" 10.231.{number}.")) {
                continue;
            }
            let config = json!({
                "ipv4.address": format!("10.231.{number}.1/24"),
                "ipv4.nat": "false",
                "ipv6.address": "none",
            });
            let body = json!({"name": name, "type": "bridge", "config": config});
            // The daemon reads all interfaces of the machine, and fails if an
            // interface disappears during the read.
            let path = format!("/1.0/networks/{name}");
            eventually("the bridge is created", || {
                let made = self.server.try_done("POST", "/1.0/networks", &body);
                made.is_ok() || {
                    let _ = self.server.try_done("DELETE", &path, &Value::Null);
                    false
                }
            });
            return;
        }
        panic!("no free subnet for {name}");
    }

    fn take_image(&mut self) {
        let shared = Server::shared();
        let aliases = shared.get("/1.0/images/aliases?recursion=1");
        let names = aliases.as_array().unwrap().iter();
        let image = names
            .filter_map(|alias| alias["name"].as_str())
            .filter(|name| name.starts_with(IMAGE_PREFIX))
            .max()
            .expect("no image found: run pixels setup");
        self.server
            .copy_image(&shared, image, &self.dir.join("image.form"))
            .unwrap();
        self.image = image.to_owned();
    }
}

impl Drop for PrivateDaemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        self.kill();
        remove(&self.dir);
    }
}

/// Guard of a suspended daemon. Resumes the daemon on drop.
pub struct Frozen(u32);

impl Drop for Frozen {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

/// Guard of a full pool. Frees the space on drop.
pub struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Removes the daemons of test processes that no longer run.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.strip_prefix(MARKER).unwrap_or_default().split('-');
        let maker = parts.next().and_then(|pid| pid.parse().ok());
        let started = parts.next().and_then(|time| time.parse().ok());
        if let (Some(pid), Some(started)) = (maker, started)
            && begun(pid) != Some(started)
        {
            remove(&entry.path());
        }
    }
}

/// Derives a bridge name of up to 15 characters from the directory name.
fn bridge(dir: &Path) -> String {
    let name = dir.file_name().unwrap().to_string_lossy();
    let mut parts = name[MARKER.len()..].split('-');
    let pid = parts.next().unwrap_or_default();
    let serial = parts.nth(1).unwrap_or_default();
    format!("pxt{pid}x{serial}")
}

/// Derives the name of the isolated bridge from the directory name.
fn segment(dir: &Path) -> String {
    bridge(dir).replacen("pxt", "pxg", 1)
}

/// Removes all resources of a daemon without using its API.
fn remove(dir: &Path) {
    let is_daemon = |(_, line): &&(u32, String)| line.contains(" --logfile ");
    let is_monitor = |(_, line): &&(u32, String)| line.starts_with("[lxc monitor]");
    let kill = |pid: u32| signal(pid, Signal::KILL);
    let mine = processes(dir);
    mine.iter()
        .filter(is_daemon)
        .for_each(|(pid, _)| kill(*pid));
    // A container's monitor cleans up after the container's init exits.
    let all = numbers("/proc");
    for (monitor, _) in mine.iter().filter(is_monitor) {
        let children = all.iter().filter(|pid| parent(**pid) == Some(*monitor));
        children.for_each(|pid| kill(*pid));
    }
    let _ = within(Duration::from_secs(10), || {
        processes(dir).iter().find(is_monitor).is_none()
    });
    processes(dir).iter().for_each(|(pid, _)| kill(*pid));
    remove_host_filter(&bridge(dir));
    for bridge in [bridge(dir), segment(dir)] {
        // A dead daemon has not deleted the interfaces of its containers.
        let ports = fs::read_dir(format!("/sys/class/net/{bridge}/brif"));
        for port in ports.into_iter().flatten().flatten() {
            let port = port.file_name().to_string_lossy().into_owned();
            run_quietly("ip", &["link", "delete", &port]);
        }
        run_quietly("ip", &["link", "delete", &bridge]);
        for chain in ["pstrt", "fwd", "in", "out"] {
            let chain = format!("{chain}.{bridge}");
            run_quietly("nft", &["delete", "chain", "inet", "incus", &chain]);
        }
    }
    for mount in mounts(dir).iter().rev() {
        run_quietly("umount", &["--lazy", mount]);
    }
    if let Err(error) = fs::remove_dir_all(dir) {
        eprintln!("cannot remove {}: {error}", dir.display());
    }
}

/// Deletes the host's filter for a gateway on `bridge`. The hook that deletes it
/// does not run if the daemon is dead.
fn remove_host_filter(bridge: &str) {
    let nft = |args: &[&str]| {
        let output = Command::new("nft").args(args).output();
        output.map_or_else(
            |_| String::new(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    for line in nft(&["list", "tables", "inet"]).lines() {
        let Some(table) = line.strip_prefix("table inet ") else {
            continue;
        };
        let is_filter = table.starts_with("pixels_");
        if is_filter && nft(&["list", "table", "inet", table]).contains(&format!("\"{bridge}\"")) {
            for family in ["netdev", "bridge", "inet", "arp"] {
                run_quietly("nft", &["delete", "table", family, table]);
            }
        }
    }
}

fn run_quietly(program: &str, args: &[&str]) {
    let _ = Command::new(program).args(args).output();
}

/// Ids and command lines of the processes of the daemon in `dir`. Each command
/// line contains a path in `dir`.
fn processes(dir: &Path) -> Vec<(u32, String)> {
    let inside = format!("{}/", dir.display());
    let all = numbers("/proc").into_iter().filter_map(|pid| {
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let is_ours = program.ends_with("incusd") || program.ends_with("dnsmasq");
        (is_ours && line.contains(&inside)).then_some((pid, line))
    });
    all.collect()
}

fn numbers(dir: &str) -> Vec<u32> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn mounts(dir: &Path) -> Vec<String> {
    let inside = format!("{}/", dir.display());
    let all = fs::read_to_string("/proc/self/mountinfo").unwrap();
    all.lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| point.starts_with(&inside))
        .map(str::to_owned)
        .collect()
}

/// The fields of `/proc/PID/stat` after the command's name.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn state(pid: u32) -> Option<String> {
    stat(pid)?.into_iter().next()
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// The start time of a process. Id and start time identify a process.
fn begun(pid: u32) -> Option<u64> {
    stat(pid)?.get(19)?.parse().ok()
}

pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // The process may have exited already.
        let _ = kill_process(pid, signal);
    }
}
