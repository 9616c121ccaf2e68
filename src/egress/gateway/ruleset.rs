//! The gateway's packet filter around the chains of the policies.
//!
//! It comes in pieces, so that the gateway puts in what is new, takes out what
//! is gone, and leaves everything else alone, the addresses that resolvers
//! have learned above all: a base that hardly ever changes, chains whose names
//! follow from their content, and elements that say which chain is whose.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::clients::Client;
use super::subnet::Subnet;
use crate::egress::render::Chains;

/// Marks connections that the host opened to a pixel.
const INBOUND: u32 = 1;
/// Marks connections that a new policy has cut.
const CUT: u32 = 2;
/// How long a refused destination stays in the log.
const REMEMBER: &str = "1h";
const LOG_SIZE: u32 = 65_535;

/// The table, its hooks, and sets without elements: walls without a door.
/// `host` is the one address outside that may open connections to pixels.
/// Loading it again keeps all elements.
pub fn base(subnet: Subnet, host: Option<Ipv4Addr>) -> String {
    let mut text = String::from(
        "add table inet pixels\n\
         add set inet pixels pins { type ether_addr . ipv4_addr; }\n\
         add set inet pixels live { type ipv4_addr . mark; }\n\
         add map inet pixels resolvers { type ipv4_addr : inet_service; }\n\
         add map inet pixels leases { type ether_addr : verdict; }\n\
         add map inet pixels outward { type ipv4_addr : verdict; }\n\
         add map inet pixels inward { type ipv4_addr : verdict; }\n",
    );
    let _ = writeln!(
        text,
        "add set inet pixels denied {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; \
         flags dynamic,timeout; timeout {REMEMBER}; size {LOG_SIZE}; counter; }}"
    );
    chains(&mut text, subnet, host);
    text
}

/// What lets a pixel be itself, and ties it to its policy and resolver. One
/// element a line, without the verb.
pub fn elements(client: &Client, policy: &Chains, port: u16) -> String {
    let Client { mac, address, .. } = client;
    let Chains { id, mark, .. } = policy;
    let lease = lease_name(client);
    format!(
        "element arp pixels pins {{ {mac} . {address} }}\n\
         element inet pixels pins {{ {mac} . {address} }}\n\
         element inet pixels leases {{ {mac} : jump {lease} }}\n\
         element inet pixels live {{ {address} . {mark:#x} }}\n\
         element inet pixels resolvers {{ {address} : {port} }}\n\
         element inet pixels outward {{ {address} : jump p_{id} }}\n\
         element inet pixels inward {{ {address} : jump r_{id} }}\n"
    )
}

fn lease_name(client: &Client) -> String {
    let mac = client.mac.replace(':', "");
    format!("l_{mac}_{:08x}", client.address.to_bits())
}

/// The chain, by name, that lets a pixel ask for its address: a request is the
/// one thing that may come without one. A pixel asks for itself (`chaddr`)
/// only, or it could decline a neighbour's address; and the answer goes nowhere
/// else (`ciaddr`, `giaddr`), or the gateway would carry it to a neighbour.
pub fn lease_element(client: &Client) -> (String, String) {
    let name = lease_name(client);
    let mut text = format!("add chain inet pixels {name}\n");
    let mac = client.mac.replace(':', "");
    for address in [Ipv4Addr::UNSPECIFIED, client.address] {
        let _ = writeln!(
            text,
            "add rule inet pixels {name} ip saddr {address} @th,160,32 {:#x} @th,256,80 0x{mac} accept",
            address.to_bits()
        );
    }
    (name, text)
}

fn chains(text: &mut String, subnet: Subnet, host: Option<Ipv4Addr>) {
    let gateway = subnet.gateway();
    let mut chain = |name: &str, hook: &str, lines: &[String]| {
        let _ = if hook.is_empty() {
            writeln!(text, "add chain inet pixels {name}")
        } else {
            writeln!(text, "add chain inet pixels {name} {{ type {hook}; }}")
        };
        let _ = writeln!(text, "flush chain inet pixels {name}");
        for line in lines {
            let _ = writeln!(text, "add rule inet pixels {name} {line}");
        }
    };
    let lines = |of: &[&str]| of.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();

    chain("lease", "", &lines(&["ether saddr vmap @leases", "drop"]));
    // Who says it is a pixel must be that pixel.
    chain(
        "identity",
        "filter hook prerouting priority raw; policy accept",
        &lines(&[
            "iifname != \"eth1\" accept",
            "meta nfproto ipv6 drop",
            "udp sport 68 udp dport 67 goto lease",
            "ether saddr . ip saddr != @pins drop",
        ]),
    );
    chain(
        "resolve",
        "nat hook prerouting priority dstnat; policy accept",
        &lines(&[
            "iifname \"eth1\" meta nfproto ipv4 meta l4proto { tcp, udp } th dport 53 \
             redirect to :ip saddr map @resolvers",
        ]),
    );
    chain(
        "refuse",
        "",
        &lines(&[
            // Nobody could be told, and nobody asks.
            "ip daddr { 224.0.0.0/4, 255.255.255.255 } drop",
            "meta l4proto { tcp, udp } \
             update @denied { ip saddr . ip daddr . meta l4proto . th dport }",
            "meta l4proto icmp update @denied { ip saddr . ip daddr . meta l4proto . 0 }",
            "meta l4proto tcp ct state established reject with tcp reset",
            "reject with icmpx admin-prohibited",
        ]),
    );
    // A connection is known by the mark of the policy that allowed it: one
    // that was allowed by an earlier policy is judged again by the present one.
    chain(
        "outgoing",
        "",
        &[
            "ct direction original ct state established,related ip saddr . ct mark @live accept"
                .into(),
            format!("ct direction reply ct state established,related ct mark {INBOUND:#x} accept"),
            "ct direction original ip saddr vmap @outward".into(),
            "jump refuse".into(),
        ],
    );
    let mut incoming = vec![
        "ct direction reply ct state established,related ip daddr . ct mark @live accept".into(),
        "ct direction reply ct state established,related ip daddr vmap @inward".into(),
        // The program inside hears of the cut by the first packet that no
        // longer belongs there.
        format!(
            "ct direction reply ct state established ct mark != {CUT:#x} \
             tcp flags set rst ct mark set {CUT:#x} accept"
        ),
        format!("ct direction original ct state established,related ct mark {INBOUND:#x} accept"),
    ];
    if let Some(host) = host {
        // Nor does a resolver of the host's open one by its answer, should a
        // pixel's question have reached it behind the gateway's back.
        incoming.push(format!("ip saddr {host} udp sport 53 drop"));
        incoming.push(format!(
            "ct direction original ct state new ip saddr {host} ip daddr {subnet} \
             ct mark set {INBOUND:#x} accept"
        ));
    }
    incoming.push("drop".into());
    chain("incoming", "", &incoming);
    chain(
        "forwarding",
        "filter hook forward priority filter; policy drop",
        &lines(&[
            "meta nfproto ipv6 drop",
            "iifname \"eth1\" oifname \"eth0\" jump outgoing",
            "iifname \"eth0\" oifname \"eth1\" jump incoming",
            "iifname \"eth1\" jump refuse",
        ]),
    );
    chain(
        "to_gateway",
        "filter hook input priority filter; policy drop",
        &[
            "iifname \"lo\" accept".into(),
            "iifname \"eth0\" ct state established,related accept".into(),
            "iifname \"eth0\" meta nfproto ipv6 icmpv6 type { nd-neighbor-solicit, \
             nd-neighbor-advert, nd-router-advert } accept"
                .into(),
            // Its own lease.
            "iifname \"eth0\" udp sport 67 udp dport 68 accept".into(),
            "iifname \"eth1\" ether type ip udp sport 68 udp dport 67 accept".into(),
            // Only what was sent to port 53 and redirected.
            format!(
                "iifname \"eth1\" ip daddr {gateway} ct status dnat meta l4proto {{ tcp, udp }} accept"
            ),
            // What is said in return to a query or to the host's own connections.
            "iifname \"eth1\" ct direction reply ct state established,related accept".into(),
            "iifname \"eth1\" jump refuse".into(),
        ],
    );
    chain(
        "translate",
        "nat hook postrouting priority srcnat; policy accept",
        &[
            format!("oifname \"eth0\" ip saddr {subnet} masquerade"),
            // Under the gateway's name, so that the host's own filter, which
            // may see bridged packets too, sees another connection.
            format!("oifname \"eth1\" ip saddr != {gateway} masquerade"),
        ],
    );
    text.push_str(ARP);
}

/// Nor does the gateway listen to a pixel that speaks of another's address.
const ARP: &str = "\
add table arp pixels
add set arp pixels pins { type ether_addr . ipv4_addr; }
add chain arp pixels identity { type filter hook input priority filter; policy accept; }
flush chain arp pixels identity
add rule arp pixels identity iifname \"eth1\" arp saddr ether . arp saddr ip != @pins drop
";
