//! A second suite of attempts to escape, written before its author read how the
//! policy is enforced. The attempts are the rows of the files in `egress_second_suite`;
//! a row with the control 1 must succeed where nothing blocks it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::env::TestEnv;
use crate::support::lab;
use crate::support::report::report;
use crate::support::wait::{eventually, until, within};
use crate::support::walls::{Place, Walls};
use crate::support::wan::{HOST, Wan, ip};

const DISK_MIB: u64 = 1536;
/// The marker of `hammer.pl`.
const HAMMER: &str = "zqh000";
const PLAIN_ROUTER: &str = "172.31.233.1";

/// Disables checksum offload of an interface. The kernel then completes the
/// checksums of the frames that leave through it, as real interfaces do.
const COMPLETE_CHECKSUMS: &str = r#"
    socket my $s, 2, 2, 0;
    my $value = pack 'LL', 0x17, 0;
    ioctl $s, 0x8946, my $request = pack('a16Q', $ARGV[0], unpack 'Q', pack 'P', $value) . "\0" x 16 or die $!;
"#;

fn source(file: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/egress_second_suite");
    std::fs::read_to_string(format!("{folder}/{file}")).unwrap()
}

/// The program that runs the rows of these files. `prefix` starts all markers.
fn program(scene: &Scene<'_>, prefix: &str, files: &[&str]) -> String {
    let mut text = scene.prelude() + &source("lib.pl");
    let _ = write!(
        text,
        "my $count = 0; our @loud;
         sub numbered {{
             my ($name, $control, $code) = @_;
             my $marker = sprintf '{prefix}%03d', $count++;
             print \"ROW $marker $control $name\\n\";
             return [$name, $marker, $code];
         }}
         sub row {{ push @attempts, numbered(@_) }}
         sub loud {{ push @loud, numbered(@_) }}\n"
    );
    for file in files {
        text.push_str(&source(file));
    }
    text.push_str("run_all(8); @attempts = @loud; run_all(1);\n");
    text
}

struct Row {
    name: String,
    marker: String,
    /// Whether the row must succeed in the control.
    controlled: bool,
    /// Successes that the attacker reported.
    inside: BTreeSet<String>,
    /// Text whose arrival outside is a success, besides the marker.
    wanted: Option<String>,
    /// Why the attempt did not run to its end.
    error: Option<String>,
}

fn rows(output: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in output.lines() {
        if let Some(row) = line.strip_prefix("ROW ") {
            let parts: Vec<&str> = row.splitn(3, ' ').collect();
            rows.push(Row {
                marker: parts[0].to_owned(),
                controlled: parts[1] == "1",
                name: parts[2].to_owned(),
                inside: BTreeSet::new(),
                wanted: None,
                error: None,
            });
            continue;
        }
        let row = rows.iter_mut().find(|row| line.starts_with(&row.marker));
        let Some((row, (_, text))) = row.zip(line.split_once(": ")) else {
            continue;
        };
        if let Some(reason) = text.strip_prefix("IN ") {
            row.inside.insert(reason.to_owned());
        } else if let Some(hex) = text.strip_prefix("LOOK ") {
            let bytes = (0..hex.len()).step_by(2);
            let bytes = bytes.map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap());
            row.wanted = Some(String::from_utf8(bytes.collect()).unwrap());
        } else if let Some(error) = text.strip_prefix("ERROR ") {
            row.error = Some(error.to_owned());
        }
    }
    rows
}

/// Where rows succeeded, as `name: place`.
struct Witnesses<'a> {
    wan: &'a Wan,
    listener: &'a Listener,
    neighbor: BTreeMap<String, String>,
}

impl Witnesses<'_> {
    fn successes(&self, row: &Row) -> Vec<String> {
        let mut found: Vec<String> = row.inside.iter().cloned().collect();
        if let Some(frame) = self.neighbor.get(&row.marker) {
            found.push(format!("seen by the neighbor: {frame}"));
        }
        let wanted = row.wanted.as_deref().unwrap_or(&row.marker);
        if self.wan.saw(wanted) {
            found.push("seen outside".to_owned());
        }
        if self.listener.heard(&row.marker) {
            found.push("heard by the host".to_owned());
        }
        found
    }
}

/// Records markers in all frames of an interface. Runs until its input ends.
const RECORDER: &str = r#"
    $| = 1;
    socket my $s, 17, 3, unpack 'S', pack 'n', 3;
    print "READY\n";
    my (%seen, %first);
    while (1) {
        my $read = '';
        vec($read, fileno $s, 1) = vec($read, 0, 1) = 1;
        select $read, undef, undef, undef;
        if (vec $read, fileno $s, 1) {
            my $from = recv $s, my $frame, 10_000, 0;
            next if unpack('x10C', $from) == 4;
            $seen{lc $1} //= unpack 'H*', substr $frame, 0, 60 while $frame =~ /(zq[a-z]\d\d\d)/ig;
        } else { last }
    }
    print "$_ $seen{$_}\n" for keys %seen;
"#;

struct Recorder(Child);

impl Recorder {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_ready(&mut child);
        Self(child)
    }

    fn end(mut self) -> BTreeMap<String, String> {
        drop(self.0.stdin.take());
        let mut text = String::new();
        let mut stdout = self.0.stdout.take().unwrap();
        stdout.read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        let rows = text.lines().filter_map(|line| line.split_once(' '));
        rows.map(|(marker, frame)| (marker.to_owned(), frame.to_owned()))
            .collect()
    }
}

/// Reads the line `READY` without reading further.
fn wait_ready(child: &mut Child) {
    let stdout = child.stdout.as_mut().unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"READY\n") {
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{line:?}");
        line.push(byte[0]);
    }
}

/// A listener on all addresses of the host, which records everything.
struct Listener {
    port: u16,
    text: Arc<Mutex<Vec<u8>>>,
}

impl Listener {
    fn start() -> Self {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let stream = TcpListener::bind(any).unwrap();
        let port = stream.local_addr().unwrap().port();
        let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
        let text: Arc<Mutex<Vec<u8>>> = Arc::default();
        let heard = text.clone();
        std::thread::spawn(move || {
            for mut stream in stream.incoming().flatten() {
                let heard = heard.clone();
                std::thread::spawn(move || {
                    let mut bytes = [0; 2000];
                    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                    let length = stream.read(&mut bytes).unwrap_or(0);
                    heard.lock().unwrap().extend(&bytes[..length]);
                    let _ = stream.write_all(b"hello\n");
                });
            }
        });
        let heard = text.clone();
        std::thread::spawn(move || {
            let mut bytes = [0; 2000];
            while let Ok((length, _)) = datagrams.recv_from(&mut bytes) {
                heard.lock().unwrap().extend(&bytes[..length]);
            }
        });
        Self { port, text }
    }

    fn heard(&self, marker: &str) -> bool {
        let text = self.text.lock().unwrap();
        text.windows(marker.len()).any(|w| w == marker.as_bytes())
    }
}

/// Two network namespaces on a bridge of the host, with the host as router and
/// without any policy.
struct Plain(String);

impl Plain {
    fn start(wan: &Wan) -> Self {
        let plain = Self(format!("s2{}", wan.bridge()));
        plain.remove();
        let name = &plain.0;
        ip(&format!("link add {name} type bridge"));
        ip(&format!("addr add {PLAIN_ROUTER}/24 dev {name}"));
        for (end, last) in [("a", 2), ("n", 3)] {
            let (space, link) = (format!("{name}{end}"), format!("{name}{end}"));
            ip(&format!("netns add {space}"));
            ip(&format!(
                "link add {link} type veth peer name eth0 netns {space}"
            ));
            ip(&format!("link set {link} master {name} up"));
            let inside = |args: &str| ip(&format!("-n {space} {args}"));
            inside("link set lo up");
            inside(&format!("addr add 172.31.233.{last}/24 dev eth0"));
            inside("link set eth0 up");
            inside(&format!("route add default via {PLAIN_ROUTER}"));
        }
        ip(&format!("link set {name} up"));
        plain
    }

    fn place(&self, end: &str, last: u8) -> Place {
        let space = format!("{}{end}", self.0);
        let output = Command::new("ip")
            .args([
                "netns",
                "exec",
                &space,
                "cat",
                "/sys/class/net/eth0/address",
            ])
            .output()
            .unwrap();
        Place {
            mac: String::from_utf8(output.stdout).unwrap().trim().to_owned(),
            address: format!("172.31.233.{last}"),
        }
    }

    fn router(&self) -> Place {
        let path = format!("/sys/class/net/{}/address", self.0);
        Place {
            mac: std::fs::read_to_string(path).unwrap().trim().to_owned(),
            address: PLAIN_ROUTER.to_owned(),
        }
    }

    fn perl(&self, end: &str, code: &[&str]) -> Command {
        let mut command = Command::new("ip");
        let space = format!("{}{end}", self.0);
        command.args(["netns", "exec", &space, "perl"]).args(code);
        command
    }

    fn remove(&self) {
        for end in ["a", "n"] {
            let space = format!("{}{end}", self.0);
            for args in [["netns", "del", &space], ["link", "del", &space]] {
                let _ = Command::new("ip").args(args).output();
            }
        }
        let _ = Command::new("ip").args(["link", "del", &self.0]).output();
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.remove();
    }
}

fn host_addresses() -> Vec<String> {
    let output = Command::new("ip")
        .args(["-4", "-o", "addr", "show", "scope", "global"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(3)?.split('/').next())
        .map(str::to_owned)
        .collect()
}

fn setting(path: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/sys/{path}")).unwrap();
    text.trim().to_owned()
}

/// Environment of the attempts.
struct Scene<'a> {
    wan: &'a Wan,
    attacker: Place,
    neighbor: Place,
    router: Place,
    uplink: String,
    broadcast: String,
    port: u16,
    control: bool,
}

impl Scene<'_> {
    fn variables(&self) -> Vec<(&'static str, String)> {
        let at = |last| self.wan.address(last).to_string();
        vec![
            ("A", at(10)),
            ("D", at(20)),
            ("ALL", at(12)),
            ("OTHER", at(11)),
            ("BCAST", self.broadcast.clone()),
            ("R", self.wan.resolver().to_string()),
            ("N", self.neighbor.address.clone()),
            ("NM", self.neighbor.mac.clone()),
            ("GW", self.router.address.clone()),
            ("GM", self.router.mac.clone()),
            ("ME", self.attacker.address.clone()),
            ("MM", self.attacker.mac.clone()),
            ("UP", self.uplink.clone()),
            ("HOSTS", host_addresses().join(" ")),
            ("PORT", self.port.to_string()),
            ("CONTROL", String::from(if self.control { "1" } else { "" })),
            ("DISK", (DISK_MIB << 20).to_string()),
            ("PTYS", setting("kernel/pty/max")),
            ("INOTIFY", setting("fs/inotify/max_user_instances")),
            ("AIO", setting("fs/aio-max-nr")),
        ]
    }

    fn prelude(&self) -> String {
        let set = self.variables();
        let set = set.iter().map(|(k, v)| format!("$ENV{{{k}}} = '{v}';\n"));
        format!("BEGIN {{ {} }}\n", set.collect::<String>())
    }
}

/// Runs the rows and returns them with the markers that the neighbor received.
fn run(
    mut attacker: Command,
    neighbor: Command,
    program: &str,
) -> (Vec<Row>, BTreeMap<String, String>) {
    let recorder = Recorder::start(neighbor);
    let mut child = attacker
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(program.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let rows = rows(&String::from_utf8_lossy(&output.stdout));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    (rows, recorder.end())
}

/// Attempts that did not run to their end, and so prove nothing.
fn unfinished(rows: &[Row]) -> impl Iterator<Item = String> {
    let ended = |row: &Row| Some(format!("{}: {}", row.name, row.error.as_ref()?));
    rows.iter().filter_map(ended)
}

/// Names of rows that must succeed in the control and did not.
fn idle(rows: &[Row], witnesses: &Witnesses<'_>) -> Vec<String> {
    let idle = rows
        .iter()
        .filter(|row| row.controlled && witnesses.successes(row).is_empty());
    idle.map(|row| row.name.clone()).collect()
}

fn perl(env: &TestEnv, user: &str, pixel: &str, args: &[&str]) -> Command {
    let start = ["exec", "-u", user, pixel, "--", "perl"];
    env.command(start.iter().chain(args))
}

/// Prints the result. Panics with a list if an attempt succeeded.
fn finish(place: &str, attempts: usize, successes: &[String], idle: &[String]) {
    let name = |success: &String| success.split(": ").next().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = successes.iter().map(name).collect();
    report(&format!(
        "second suite {place}: {attempts} attempts, {} succeeded",
        names.len()
    ));
    assert!(
        successes.is_empty(),
        "{successes:#?}\nattempts that prove nothing: {idle:#?}"
    );
    assert!(idle.is_empty(), "attempts that prove nothing: {idle:#?}");
}

/// The first address in the output of `ip addr show`.
fn first_address(text: &str) -> Option<String> {
    let mut words = text.split_whitespace().skip_while(|word| *word != "inet");
    let network = words.nth(1)?;
    Some(network.split('/').next()?.to_owned())
}

#[test]
#[ignore = "needs Incus"]
fn second_suite_behind_a_gateway_has_no_success() {
    lab::ready();
    let mut walls = Walls::new("second", Wan::first());
    walls.env.set("S2_SECRET", "second-suite-secret");
    let wan = &walls.wan;
    let listener = Listener::start();
    let guest = UnixAddr::from_abstract_name("second-suite").unwrap();
    let _guest = UnixListener::bind_addr(&guest).unwrap();
    let link = wan.bridge().replace("pxbr", "pxwan") + "-host";
    let changed = Command::new("perl")
        .args(["-e", COMPLETE_CHECKSUMS, &link])
        .status();
    assert!(changed.unwrap().success());

    let attacker = walls.env.name("attacker");
    let (disk, all_ports) = (format!("{DISK_MIB}MiB"), wan.address(12).to_string());
    let mut args = vec![
        "create",
        &attacker,
        "--egress",
        "allowlist",
        "--disk",
        &disk,
    ];
    for rule in ["allowed.test:80", "*.wild.test:443", &all_ports] {
        args.extend(["--allow", rule]);
    }
    walls.env.pixels(args).ok();
    let neighbor = walls.create("neighbor", "unrestricted", &[]);
    let outside = wan.address(20).to_string();
    walls.comes_to_reach(&neighbor, &outside, 80);
    let (me, other, router) = (
        walls.place(&attacker),
        walls.place(&neighbor),
        walls.gateway(),
    );
    let show = ["ip", "-4", "-o", "addr", "show", "eth0"];
    let uplink = first_address(&walls.server.run(&walls.gateway_name(), &show)).unwrap();
    serve_names(wan, &other.address, &router.address, &uplink);

    // The control: the same rows where nothing blocks them.
    let scene = |control, attacker: &Place, neighbor: &Place, router: &Place| Scene {
        wan,
        attacker: attacker.clone(),
        neighbor: neighbor.clone(),
        router: router.clone(),
        uplink: uplink.clone(),
        broadcast: String::new(),
        port: listener.port,
        control,
    };
    let files = ["kernel.pl", "gateway.pl"];
    let plain = Plain::start(wan);
    let control = scene(
        true,
        &plain.place("a", 2),
        &plain.place("n", 3),
        &plain.router(),
    );
    let code = program(&control, "zqc", &files);
    let (control_rows, seen) = run(
        plain.perl("a", &["-"]),
        plain.perl("n", &["-e", RECORDER]),
        &code,
    );
    let witnesses = |neighbor| Witnesses {
        wan,
        listener: &listener,
        neighbor,
    };
    let mut idle = idle(&control_rows, &witnesses(seen));
    drop(plain);
    wan.forget();

    let code = program(&scene(false, &me, &other, &router), "zqa", &files);
    let watch = || perl(&walls.env, "root", &neighbor, &["-e", RECORDER]);
    let (rows, seen) = run(perl(&walls.env, "root", &attacker, &["-"]), watch(), &code);
    let witnesses = witnesses(seen);
    let mut successes = Vec::new();
    idle.extend(unfinished(&rows));
    for row in &rows {
        let found = witnesses.successes(row).into_iter();
        successes.extend(found.map(|place| format!("{}: {place}", row.name)));
    }

    let (pairs, harms) = exhaust(&walls.env, &attacker, &neighbor);
    successes.extend(harms);

    // Attempts at every moment of the pixel's life.
    let arguments = [
        &me.address,
        &router.mac,
        &other.mac,
        &outside,
        &other.address,
    ]
    .map(String::as_str);
    let phases = hammer(&walls, &attacker, &arguments, watch(), &mut successes);

    // Nothing is broken for the neighbor, and the attacker keeps what is allowed.
    walls.comes_to_reach(&neighbor, &outside, 80);
    walls.comes_to_reach(&attacker, "allowed.test", 80);
    walls
        .sh(
            &neighbor,
            "grep -q MemTotal /proc/meminfo && getent hosts allowed.test",
        )
        .ok();
    walls.env.pixels(["network", "gateway", "status"]).ok();
    finish(
        "behind a gateway",
        rows.len() + pairs + phases,
        &successes,
        &idle,
    );
}

/// Sets the answers for the allowed names, and servers whose answers name
/// another host.
fn serve_names(wan: &Wan, neighbor: &str, gateway: &str, uplink: &str) {
    wan.name("allowed.test", &[10]);
    wan.name("mixed.wild.test", &[11, HOST]);
    let host = wan.address(HOST).to_string();
    let addresses = host_addresses();
    for (name, address) in [
        ("host", host.as_str()),
        ("metadata", "169.254.169.254"),
        ("neighbor", neighbor),
        ("gateway", gateway),
        ("uplink", uplink),
        ("loopback", "127.0.0.1"),
        ("zero", "0.0.0.0"),
        ("bridge", &addresses[0]),
    ] {
        wan.name_outside(&format!("{name}.wild.test"), address.parse().unwrap());
    }
    let other = wan.address(20).to_string().replace('.', ",");
    for port in [21, 5060, 6667] {
        let reply = format!("227 Entering ({other},1,187)\r\n");
        wan.host((wan.address(12), port).into(), move |stream, _| {
            let _ = stream.write_all(reply.as_bytes());
            let _ = stream.read(&mut [0; 100]);
        });
    }
}

/// Uses up limits of the kernel in one pixel. Returns the number of attempts and
/// what then fails in the other pixel. In the control it fails in the same pixel.
fn exhaust(env: &TestEnv, attacker: &str, neighbor: &str) -> (usize, Vec<String>) {
    let code = |action: &str| source("lib.pl") + &source("pairs.pl") + action;
    let harm = |pixel: &str| {
        let args = ["exec", "-u", "root", pixel, "--", "perl", "-"];
        let found = env.pixels_with(args, code("suffer();").as_bytes()).ok();
        let lines = found.stdout.lines().map(str::to_owned);
        lines.collect::<BTreeSet<_>>()
    };
    let before = harm(neighbor);
    let start = |action| Recorder::start(perl(env, "root", attacker, &["-e", &code(action)]));
    let holders = ["hold();", "hold_neighbors();"].map(start);
    let during = harm(neighbor);
    let same = harm(attacker);
    for holder in holders {
        holder.end();
    }
    assert!(same.difference(&before).next().is_some(), "{same:?}");
    let harms = during.difference(&before);
    let harms = harms.map(|line| format!("limits: {line}")).collect();
    (6, harms)
}

/// Sends from the pixel all the time while the pixel and the gateway start and
/// stop and the policy changes. Returns the number of attempts.
fn hammer(
    walls: &Walls,
    attacker: &str,
    arguments: &[&str],
    neighbor: Command,
    successes: &mut Vec<String>,
) -> usize {
    let recorder = Recorder::start(neighbor);
    let unit = format!(
        "[Unit]\nDefaultDependencies=no\n[Service]\nRestart=always\n\
         ExecStart=/usr/bin/perl /root/hammer.pl {}\n[Install]\nWantedBy=sysinit.target\n",
        arguments.join(" ")
    );
    let install = format!(
        "cat >/root/hammer.pl; printf '{}' >/etc/systemd/system/hammer.service; \
         systemctl daemon-reload; systemctl enable --quiet --now hammer",
        unit.replace('\n', "\\n")
    );
    let exec = ["exec", "-u", "root", attacker, "--", "sh", "-c", &install];
    walls
        .env
        .pixels_with(exec, source("hammer.pl").as_bytes())
        .ok();
    let checkpoint = format!("{attacker}:early");
    let (prefix, all_ports) = (walls.env.name("fork"), walls.wan.address(12).to_string());
    let moments: [(&str, &[&[&str]]); 7] = [
        ("the first second", &[]),
        ("gateway rebuild", &[&["network", "gateway", "rebuild"]]),
        (
            "stop and start",
            &[&["stop", "--force", attacker], &["start", attacker]],
        ),
        (
            "restore",
            &[
                &["checkpoint", "create", attacker, "--label", "early"],
                &["checkpoint", "restore", attacker, "early"],
            ],
        ),
        (
            "fork",
            &[&["fork", &checkpoint, "-n", "1", "--prefix", &prefix]],
        ),
        (
            "policy changes",
            &[
                &["network", "set", attacker, "agent"],
                &[
                    "network",
                    "set",
                    attacker,
                    "allowlist",
                    "--allow",
                    &all_ports,
                ],
                &["network", "set", attacker, "agent"],
                &[
                    "network",
                    "set",
                    attacker,
                    "allowlist",
                    "--allow",
                    "allowed.test:80",
                ],
            ],
        ),
        (
            "reboot",
            &[&[
                "exec",
                "-u",
                "root",
                attacker,
                "--",
                "systemctl",
                "--no-block",
                "reboot",
            ]],
        ),
    ];
    for (moment, commands) in &moments {
        walls.wan.forget();
        for command in *commands {
            walls.env.pixels(*command).ok();
        }
        std::thread::sleep(Duration::from_millis(1200));
        let active = [
            "exec",
            "-u",
            "root",
            attacker,
            "--",
            "systemctl",
            "is-active",
            "hammer",
        ];
        eventually(moment, || walls.env.pixels(active).code == 0);
        if walls.wan.saw(HAMMER) {
            successes.push(format!("hammer: seen outside during {moment}"));
        }
    }
    let limit = Duration::from_secs(20);
    if let Some(frame) = recorder.end().get(HAMMER) {
        successes.push(format!("hammer: seen by the neighbor: {frame}"));
    }
    // The control: the hammer works.
    walls.comes_to_reach(attacker, "allowed.test", 80);
    walls
        .env
        .pixels(["network", "set", attacker, "unrestricted"])
        .ok();
    assert!(
        within(limit, || walls.wan.saw(HAMMER)),
        "the hammer does nothing"
    );
    let stop = "systemctl disable --quiet --now hammer";
    walls.sh(attacker, stop).ok();
    let set = [
        "network",
        "set",
        attacker,
        "allowlist",
        "--allow",
        "allowed.test:80",
    ];
    walls.env.pixels(set).ok();
    moments.len()
}

#[test]
#[ignore = "needs Incus"]
fn second_suite_with_placement_pixel_has_no_success() {
    lab::ready();
    let wan = Wan::any();
    let listener = Listener::start();
    let mut env = TestEnv::new("second");
    env.set("PIXELS_NETWORK_PLACEMENT", "pixel");
    env.config(&format!("[defaults]\ndns = [\"{}\"]\n", wan.resolver()));
    wan.name("allowed.test", &[10]);
    let server = crate::support::server::Server::shared();
    let create = |short: &str, policy: &[&str], sudo: &str| {
        let name = env.name(short);
        env.pixels(
            [
                "create",
                &name,
                "--disk",
                &format!("{DISK_MIB}MiB"),
                "--egress",
            ]
            .iter()
            .chain(policy),
        )
        .ok();
        // Provisioning would create this user and install packages.
        let user =
            format!("userdel -r ubuntu 2>/dev/null; useradd -m -u 1000 -s /bin/bash pixel; {sudo}");
        env.pixels(["exec", "-u", "root", &name, "--", "sh", "-c", &user])
            .ok();
        let show = ["ip", "-4", "-o", "addr", "show", "eth0"];
        let place = Place {
            mac: String::from("02:00:00:00:00:01"),
            address: until("an address", || {
                first_address(&server.run(&format!("px-{name}"), &show))
            }),
        };
        (name, place)
    };
    let full = "echo 'pixel ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/second";
    let (free, free_place) = create("free", &["unrestricted"], full);
    let (neighbor, other) = create("neighbor", &["unrestricted"], "true");
    let (attacker, me) = create(
        "attacker",
        &["allowlist", "--allow", "allowed.test:80"],
        "true",
    );

    let bridge = Command::new("ip")
        .args(["-4", "-o", "addr", "show", "incusbr0"])
        .output()
        .unwrap();
    let bridge = first_address(&String::from_utf8_lossy(&bridge.stdout)).unwrap();
    let (network, _) = bridge.rsplit_once('.').unwrap();
    let scene = |control, attacker: &Place| Scene {
        wan: &wan,
        attacker: attacker.clone(),
        neighbor: other.clone(),
        router: Place {
            mac: other.mac.clone(),
            address: bridge.clone(),
        },
        uplink: String::new(),
        broadcast: format!("{network}.255"),
        port: listener.port,
        control,
    };
    let witnesses = |neighbor| Witnesses {
        wan: &wan,
        listener: &listener,
        neighbor,
    };
    let watch = || perl(&env, "root", &neighbor, &["-e", RECORDER]);
    let code = program(&scene(true, &free_place), "zqc", &["pixel.pl"]);
    let (control_rows, seen) = run(perl(&env, "pixel", &free, &["-"]), watch(), &code);
    let mut idle = idle(&control_rows, &witnesses(seen));
    wan.forget();

    let code = program(&scene(false, &me), "zqa", &["pixel.pl", "kernel.pl"]);
    let (rows, seen) = run(perl(&env, "pixel", &attacker, &["-"]), watch(), &code);
    let witnesses = witnesses(seen);
    let mut successes = Vec::new();
    idle.extend(unfinished(&rows));
    for row in &rows {
        let found = witnesses.successes(row).into_iter();
        successes.extend(found.map(|place| format!("{}: {place}", row.name)));
    }
    for (pixel, host) in [
        (&neighbor, wan.address(20).to_string()),
        (&attacker, "allowed.test".to_owned()),
    ] {
        let connect = format!("timeout 4 bash -c 'exec 3<>/dev/tcp/{host}/80'");
        env.pixels(["exec", pixel, "--", "sh", "-c", &connect]).ok();
    }
    finish("with placement pixel", rows.len(), &successes, &idle);
}
