//! Attempts by root in a pixel behind a gateway.

use super::attempt::Attempt;
use super::facts::Facts;
use super::lab::{Lab, Observer};
use super::pixels::TestPixels;
use super::probe::{Probe, Probes, Session, Token};
use super::row::{Control, Row, Sender, by_open, controlled, isolated, open};
use super::{layer2, policy_change};
use crate::egress::gateway::address_of;
use crate::egress::{Mode, Policy};
use crate::lifecycle::gateway::{self, GatewaySpec};
use crate::lifecycle::wait_for_address;
use crate::model::{Ids, Result};

/// Positions in `Lab::observers`.
pub const UPLINK: usize = 0;
pub const NEIGHBOR: usize = 1;
pub const GATEWAY: usize = 2;
pub const ATTACKER: usize = 3;

/// An own packet of the unrestricted pixel, as control of packets with the
/// address of another machine.
const OWN_PACKET: Control = Control::Line(
    Sender::Open,
    "spoof {gateway-mac} {own-mac} {own} {denied} 4433",
);
/// An IPv6 and a UDP header, to 2001:db8::1.
const IPV6: &str = "frame {gateway-mac} {own-mac} 86dd 600000000014114020010db8000000000000000000000005\
                    20010db80000000000000000000000019c40115100140000";

const PACKET_TO_OPEN: &str = "packets 1 {open-mac} {gateway-mac} {gateway} {open}";
const PACKET_TO_GATEWAY: &str = "packets 1 {gateway-mac} {own-mac} {own} {gateway}";
const PACKET_TO_RESTRICTED: &str =
    "packets 1 {restricted-mac} {gateway-mac} {gateway} {restricted}";

/// Limit for the number of attempts to reach the host.
const MAX_HOST_ADDRESSES: usize = 8;

const HOST: Row = isolated("the host", &["udp {host} 4433", "tcp {host} 8443"]);
const METADATA: Row = isolated(
    "the metadata address",
    &["tcp 169.254.169.254 80", "udp 169.254.169.254 80"],
);
const PRIVATE: Row = isolated(
    "private networks",
    &[
        "udp 10.255.255.254 4433",
        "udp 172.31.255.254 4433",
        "udp 192.168.255.254 4433",
    ],
);

const ROWS: &[Row] = &[
    open("a raw address, TCP", &["tcp {denied} 443"]),
    open("a raw address, UDP", &["udp {denied} 4433"]),
    open("a raw address, QUIC", &["udp {denied} 443"]),
    open("a raw address, ping", &["icmp {denied}"]),
    open("UDP from port 53", &["udp {denied} 4433 53"]),
    isolated("UDP in fragments", &["udp {denied} 4433 0 5000"]),
    isolated(
        "other protocols (IP in IP, GRE, ESP, SCTP)",
        &[
            "proto 4 {denied}",
            "proto 47 {denied}",
            "proto 50 {denied}",
            "proto 132 {denied}",
        ],
    ),
    isolated(
        "without the packet filter of the pixel",
        &["sh nft flush ruleset", "udp {denied} 4433"],
    ),
    open("a denied name", &["dns {gateway} TOKEN.test"]),
    open("a denied name, TCP", &["dns {gateway} TOKEN.test A tcp"]),
    open(
        "a label below an allowed name",
        &[
            "dns {gateway} TOKEN.{allowed}",
            "dns {gateway} TOKEN.{allowed} TXT",
        ],
    ),
    open("another resolver", &["dns {denied} TOKEN.test"]),
    open("another resolver, TCP", &["dns {denied} TOKEN.test A tcp"]),
    open("another resolver, TLS", &["tcp {denied} 853"]),
    isolated(
        "the resolver of another policy",
        &[
            "dns {gateway} TOKEN.test A udp {resolver}",
            "dns {gateway} TOKEN.test A tcp {resolver}",
        ],
    ),
    controlled(
        Control::Line(Sender::Trusted, "tcp 127.0.0.1 {listener}"),
        "a port of the gateway",
        &["tcp {gateway} {listener}", "tcp {uplink} {listener}"],
    ),
    HOST,
    by_open(HOST, "the host, by an unrestricted pixel"),
    METADATA,
    by_open(METADATA, "the metadata address, by an unrestricted pixel"),
    PRIVATE,
    by_open(PRIVATE, "private networks, by an unrestricted pixel"),
    isolated(
        "a route over the host",
        &[
            "spoof {bridge-mac} {own-mac} {own} {uplink} 4433",
            "tagged {bridge-mac} {own-mac} {own} {uplink} 0",
            "tagged {bridge-mac} {own-mac} {own} {uplink} 1",
        ],
    ),
    isolated("IPv6", &[IPV6, "udp6 ff02::1 4433"]),
    controlled(
        OWN_PACKET,
        "the address of the neighbor",
        &[
            "spoof {gateway-mac} {own-mac} {neighbor} {denied} 4433",
            "tagged {gateway-mac} {own-mac} {neighbor} {denied} 0",
        ],
    ),
    controlled(
        OWN_PACKET,
        "the address of the gateway or the host",
        &[
            "spoof {gateway-mac} {own-mac} {gateway} {denied} 4433",
            "spoof {gateway-mac} {own-mac} {host} {denied} 4433",
        ],
    ),
    controlled(
        OWN_PACKET,
        "an unused address",
        &[
            "spoof {gateway-mac} {own-mac} 10.0.0.7 {denied} 4433",
            "spoof {gateway-mac} {own-mac} 203.0.113.255 {denied} 4433",
            "spoof {gateway-mac} {own-mac} 127.0.0.1 {denied} 4433",
        ],
    ),
    controlled(
        Control::Line(Sender::Open, "dhcp {own-mac} 1 {own-mac}"),
        "the DHCP lease of the neighbor",
        &[
            "dhcp {own-mac} 1 {neighbor-mac}",
            "dhcp {own-mac} 1 02:00:00:00:00:77",
        ],
    ),
    isolated(
        "packets to the neighbor",
        &[
            "udp {neighbor} 4433",
            "spoof {gateway-mac} {own-mac} {own} {neighbor} 4433",
            "spoof {neighbor-mac} {own-mac} {own} {neighbor} 4433",
        ],
    ),
    isolated(
        "raw frames to the neighbor",
        &[
            "frame {neighbor-mac} {own-mac} 88b5",
            "frame {broadcast} {own-mac} 88b5",
            "frame {neighbor-mac} {own-mac} 8100 000188b5",
        ],
    ),
    isolated(
        "ARP, router and DHCP spoofing",
        &[
            "arp {neighbor-mac} {own-mac} 2 {own-mac} {gateway} {neighbor-mac} {neighbor}",
            "frame 33:33:00:00:00:01 {own-mac} 86dd 6000000000143afffe8000000000000000000000000000\
             01ff0200000000000000000000000000018600000040000708",
            "spoof {broadcast} {own-mac} {own} 255.255.255.255 68",
        ],
    ),
    isolated(
        "the guest API and devices of the host",
        &["sh ls /dev/incus/sock", "sh ls /dev/kmsg /dev/mem /dev/sda"],
    ),
];

/// Attempts after which the bridge may send frames to the wrong port.
const THEFT_ROWS: &[Row] = &[
    isolated(
        "the hardware address of the neighbor",
        &["spoof {gateway-mac} {neighbor-mac} {neighbor} {denied} 4433"],
    ),
    isolated(
        "the hardware address of the gateway",
        &["spoof {gateway-mac} {gateway-mac} {gateway} {denied} 4433"],
    ),
];

/// The names of all attempts.
pub fn names() -> impl Iterator<Item = &'static str> {
    let rows = ROWS.iter().chain(THEFT_ROWS).map(|row| row.name);
    rows.chain(layer2::NAMES).chain(policy_change::NAMES)
}

/// Makes all attempts.
pub async fn run(pixels: &TestPixels<'_>, gateway: &GatewaySpec) -> Result<Vec<Attempt>> {
    let backend = pixels.backend;
    (pixels.progress)("waiting for the network");
    tokio::try_join!(
        wait_for_address(backend, &pixels.restricted),
        wait_for_address(backend, &pixels.open)
    )?;
    let mut probes = Probes::default();
    let probe = |name, interface| Probe {
        guest: backend.guest(name),
        name,
        owner: Ids::ROOT,
        interface,
    };
    let mut sessions = [
        probes.session(probe(&pixels.restricted, "eth0")),
        probes.session(probe(&pixels.open, "eth0")),
        probes.session(probe(&gateway.name, "eth1")),
    ];
    let observers = vec![
        Observer {
            witness: probes.witness(probe(&gateway.name, "eth0"), "both"),
            label: Some("left the gateway"),
            marker: (Sender::Trusted, "udp {denied} 4433"),
        },
        Observer {
            witness: probes.witness(probe(&pixels.open, "eth0"), "in"),
            label: Some("reached the neighbor"),
            marker: (Sender::Trusted, PACKET_TO_OPEN),
        },
        Observer {
            witness: probes.witness(probe(&gateway.name, "eth1"), "in"),
            label: None,
            marker: (Sender::Open, PACKET_TO_GATEWAY),
        },
        Observer {
            witness: probes.witness(probe(&pixels.restricted, "eth0"), "in"),
            label: None,
            marker: (Sender::Trusted, PACKET_TO_RESTRICTED),
        },
    ];
    let work = async {
        let facts = facts(pixels, gateway, &mut sessions[2]).await?;
        let mut lab = Lab::new(pixels.run, sessions, observers, facts);
        lab.ready().await?;
        make_attempts(pixels, &mut lab).await
    };
    probes.during(work).await
}

async fn make_attempts(pixels: &TestPixels<'_>, lab: &mut Lab) -> Result<Vec<Attempt>> {
    (pixels.progress)("trying to get out");
    let lease = policy_change::lease(pixels, lab, UPLINK).await?;
    let mut attempts = lab.make_all(ROWS).await?;
    (pixels.progress)("trying to impersonate the neighbor");
    attempts.push(layer2::fragments(lab).await?);
    attempts.extend(layer2::thefts(lab).await?);
    attempts.extend(lab.make_all(THEFT_ROWS).await?);
    (pixels.progress)("changing a policy");
    attempts.push(lease);
    // The resolver of a policy stops if no pixel has the policy.
    let unrestricted = Policy::new(Mode::Unrestricted, []);
    pixels.set_policy(&pixels.restricted, &unrestricted).await?;
    attempts.extend(policy_change::flows(pixels, lab, UPLINK).await?);
    Ok(attempts)
}

/// Reads addresses and ports.
async fn facts(
    pixels: &TestPixels<'_>,
    gateway: &GatewaySpec,
    trusted: &mut Session,
) -> Result<Facts> {
    let backend = pixels.backend;
    let network = backend.isolated_network()?;
    let mut facts = pixels.facts();
    let (restricted, open) = (Sender::Restricted, Sender::Open);
    for (sender, name, word, mac_word) in [
        (
            restricted,
            &pixels.restricted,
            "restricted",
            "restricted-mac",
        ),
        (open, &pixels.open, "open", "open-mac"),
    ] {
        let instance = backend.get(name).await?;
        let address = address_of(&instance);
        facts.set(word, address);
        facts.set(mac_word, instance.mac.iter());
        facts.set_of(sender, "own", address);
        facts.set_of(sender, "own-mac", instance.mac.iter());
    }
    for (word, source) in [("neighbor", "{open}"), ("neighbor-mac", "{open-mac}")] {
        let value = facts.fill_one(Sender::Restricted, source)?;
        facts.set(word, [value]);
    }
    let subnet = gateway::subnet(&backend.get(&gateway.name).await?);
    for word in ["gateway", "server"] {
        facts.set(word, subnet.map(|subnet| subnet.gateway()));
    }
    let host_addresses = network.host_addresses().await?;
    facts.set("host", host_addresses.iter().take(MAX_HOST_ADDRESSES));
    facts.set("bridge-mac", [network.bridge_mac(&gateway.bridge).await?]);
    read_gateway(&mut facts, pixels.setup_token(), trusted).await?;
    Ok(facts)
}

/// Reads addresses and ports in the gateway, and opens a port.
async fn read_gateway(facts: &mut Facts, token: Token, trusted: &mut Session) -> Result<()> {
    let mac = trusted.sh(token, "cat /sys/class/net/eth1/address").await?;
    facts.set("gateway-mac", mac);
    let command = "ip -4 -o addr show dev eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'";
    facts.set("uplink", trusted.sh(token, command).await?);
    let own = facts.fill_one(Sender::Open, "{own}")?;
    let command = format!("nft get element inet pixels resolvers '{{ {own} }}'");
    let output = trusted.sh(token, &command).await?.unwrap_or_default();
    // The port is the only word that is a number.
    let port = output.split(' ').find_map(|word| word.parse::<u16>().ok());
    facts.set("resolver", port);
    let port = token.port();
    trusted.run(&[(token, format!("listen {port}"))]).await?;
    facts.set("listener", [port]);
    Ok(())
}
