//! Attempts by the user `pixel` of a pixel that enforces its own policy.

use std::net::Ipv4Addr;

use super::attempt::Attempt;
use super::facts::Facts;
use super::lab::{Lab, Observer};
use super::pixels::TestPixels;
use super::policy_change;
use super::probe::{Probe, Probes, Session};
use super::row::{Control, Row, Sender, controlled, isolated, open};
use crate::lifecycle::wait_for_address;
use crate::model::{Ids, Result};

/// Positions in `Lab::observers`.
const RESTRICTED: usize = 0;
const OPEN: usize = 1;

const USER: Ids = Ids {
    uid: 1000,
    gid: 1000,
};
/// `sudo` works for the user, with the allowed commands.
const SUDO: Control = Control::Line(Sender::Restricted, "sh sudo -n -l");

const ROWS: &[Row] = &[
    open("a raw address, TCP", &["tcp {denied} 443"]),
    open("a raw address, UDP", &["udp {denied} 4433"]),
    open("a raw address, QUIC", &["udp {denied} 443"]),
    open("UDP in fragments", &["udp {denied} 4433 0 5000"]),
    open("a denied name", &["sh getent ahostsv4 $TOKEN.test"]),
    open(
        "a label below an allowed name",
        &["sh getent ahostsv4 $TOKEN.{allowed}"],
    ),
    open("another resolver", &["dns {denied} TOKEN.test"]),
    open("another resolver, TCP", &["dns {denied} TOKEN.test A tcp"]),
    open("another resolver, TLS", &["tcp {denied} 853"]),
    open("the resolver of the network", &["dns {server} TOKEN.test"]),
    open(
        "the resolver of the network, TCP",
        &["dns {server} TOKEN.test A tcp"],
    ),
    isolated(
        "the resolver of the pixel",
        &[
            "dns 127.0.0.1 TOKEN.test A udp 553",
            "dns 127.0.0.53 TOKEN.test",
        ],
    ),
    open("the host", &["tcp {host} 22", "udp {host} 4433"]),
    open("the metadata address", &["tcp 169.254.169.254 80"]),
    open("the neighbor", &["udp {neighbor} 4433"]),
    open("IPv6", &["udp6 ff02::1 4433"]),
    open("raw packets", &["icmp {denied}", "proto 253 {denied}"]),
    open("raw frames", &["frame {broadcast} {own-mac} 88b5"]),
    isolated(
        "the packet filter",
        &[
            "sh nft flush ruleset",
            "sh iptables -F",
            "sh unshare -Ur nft flush ruleset",
            "udp {denied} 4433",
        ],
    ),
    controlled(
        SUDO,
        "sudo",
        &[
            "sh sudo -n id -u",
            "sh sudo -n -s id -u",
            "sh sudo -n -u pixels-dns id -u",
            "sh sudo -n nft flush ruleset",
            "udp {denied} 4433",
        ],
    ),
    controlled(
        SUDO,
        "safe-apt",
        &[
            "sh sudo -n safe-apt -oAPT::Update::Pre-Invoke::=id update",
            "sh sudo -n safe-apt update -oAPT::Update::Pre-Invoke::=id",
            "sh sudo -n safe-apt remove nftables",
            "udp {denied} 4433",
        ],
    ),
    controlled(
        SUDO,
        "safe-systemctl",
        &[
            "sh sudo -n safe-systemctl stop pixels-egress && echo stopped",
            "sh sudo -n safe-systemctl stop pixels-resolver && echo stopped",
            "sh sudo -n safe-systemctl restart nftables && echo restarted",
            "udp {denied} 4433",
        ],
    ),
    controlled(
        SUDO,
        "safe-journalctl",
        &[
            "sh sudo -n safe-journalctl --file=/etc/shadow",
            "sh sudo -n safe-journalctl -D /root",
        ],
    ),
    isolated(
        "the files of the policy",
        &[
            "sh echo x >>/var/lib/pixels/egress/ruleset && echo written",
            "sh mv /usr/local/lib/pixels/egress /tmp/egress && echo moved",
            "sh echo x >/etc/sudoers.d/pixel && echo written",
        ],
    ),
    isolated(
        "root by other programs",
        &[
            "sh su -c id </dev/null",
            "sh pkexec id",
            "sh systemd-run --no-ask-password --pipe id",
            "sh setpriv --reuid pixels-dns --clear-groups id",
        ],
    ),
    isolated(
        "the guest API and devices of the host",
        &["sh ls /dev/incus/sock", "sh ls /dev/kmsg /dev/mem /dev/sda"],
    ),
];

/// The names of all attempts.
pub fn names() -> impl Iterator<Item = &'static str> {
    let rows = ROWS.iter().map(|row| row.name);
    rows.chain(policy_change::NAMES)
}

/// Makes all attempts.
pub async fn run(pixels: &TestPixels<'_>) -> Result<Vec<Attempt>> {
    let backend = pixels.backend;
    (pixels.progress)("waiting for the network");
    let (restricted, open) = tokio::try_join!(
        wait_for_address(backend, &pixels.restricted),
        wait_for_address(backend, &pixels.open)
    )?;
    let mut probes = Probes::default();
    let probe = |name, owner| Probe {
        guest: backend.guest(name),
        name,
        owner,
        interface: "eth0",
    };
    let mut sessions = [
        probes.session(probe(&pixels.restricted, USER)),
        probes.session(probe(&pixels.open, Ids::ROOT)),
        probes.session(probe(&pixels.restricted, Ids::ROOT)),
    ];
    let marker = "frame {broadcast} {own-mac} 88b5";
    let observers = vec![
        Observer {
            witness: probes.witness(probe(&pixels.restricted, Ids::ROOT), "out"),
            label: Some("left the pixel"),
            marker: (Sender::Trusted, marker),
        },
        Observer {
            witness: probes.witness(probe(&pixels.open, Ids::ROOT), "both"),
            label: Some("reached the neighbor"),
            marker: (Sender::Open, marker),
        },
    ];
    let work = async {
        let facts = facts(pixels, restricted, open, &mut sessions).await?;
        let mut lab = Lab::new(pixels.run, sessions, observers, facts);
        lab.ready().await?;
        (pixels.progress)("trying to get out");
        let lease = policy_change::lease(pixels, &mut lab, RESTRICTED).await?;
        let mut attempts = lab.make_all(ROWS).await?;
        (pixels.progress)("changing a policy");
        attempts.push(lease);
        attempts.extend(policy_change::flows(pixels, &mut lab, OPEN).await?);
        Ok(attempts)
    };
    probes.during(work).await
}

async fn facts(
    pixels: &TestPixels<'_>,
    restricted: Option<Ipv4Addr>,
    open: Option<Ipv4Addr>,
    [_, of_open, of_restricted]: &mut [Session; 3],
) -> Result<Facts> {
    let mut facts = pixels.facts();
    let token = pixels.setup_token();
    let read_mac = "cat /sys/class/net/eth0/address";
    let mac = of_open.sh(token, read_mac).await?;
    facts.set_of(Sender::Open, "own-mac", mac);
    facts.set_of(Sender::Open, "neighbor", restricted);
    let mac = of_restricted.sh(token, read_mac).await?;
    facts.set("own-mac", mac);
    facts.set("neighbor", open);
    let command = "ip -4 route show default | sed -n '1s/.* via \\([0-9.]*\\).*/\\1/p'";
    facts.set("host", of_open.sh(token, command).await?);
    // With systemd-resolved, /etc/resolv.conf contains only its stub.
    let command = "sed -n 's/^nameserver \\([0-9.]*\\)$/\\1/p' \
                   /run/systemd/resolve/resolv.conf /etc/resolv.conf | grep -v '^127' | head -n 1";
    facts.set("server", of_open.sh(token, command).await?);
    Ok(facts)
}
