//! The gateway's packet filter, except the chains of the policies.
//!
//! The filter consists of parts, so that the gateway can add and remove parts
//! and keep the others, especially learned addresses. The parts are a base that
//! rarely changes, chains named by their content, and set elements that assign
//! pixels to chains.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::clients::Client;
use super::desired_state::FORWARDER_PORT;
use super::limits::add_limits;
use super::subnet::Subnet;
use crate::egress::nftables::{
    Chains, HOST_ACCESS, add_chain, add_denied_set, add_forwarder_chain, add_refusal, denied_set,
    record_denial,
};
use crate::model::HOST_ACCESS_DSCP;

/// Mark of connections from the host to a pixel.
const INBOUND: u32 = HOST_ACCESS | 1;
/// Mark of connections that a policy change has reset.
const RESET: u32 = 2;

/// Returns the default-deny base: table, hooks, and sets without elements.
/// Loading the base again keeps all elements. `host` is the only address
/// outside that may open connections to pixels.
pub fn base(subnet: Subnet, host: Option<Ipv4Addr>) -> String {
    let mut text = String::from(
        "add table inet pixels\n\
         add set inet pixels pins { type ether_addr . ipv4_addr; }\n\
         add set inet pixels live { type ipv4_addr . mark; }\n\
         add set inet pixels host { type ipv4_addr; }\n\
         add map inet pixels resolvers { type ipv4_addr : inet_service; }\n\
         add set inet pixels asks { type ipv4_addr . inet_service; }\n\
         add map inet pixels denials { type ipv4_addr : verdict; }\n\
         add map inet pixels leases { type ether_addr : verdict; }\n\
         add map inet pixels outward { type ipv4_addr : verdict; }\n\
         add map inet pixels inward { type ipv4_addr : verdict; }\n\
         add set inet pixels provisioning { type ipv4_addr; flags timeout; }\n\
         add set inet pixels provisioning_live { type ipv4_addr . mark; }\n\
         add set inet pixels provisioning_queries { type ipv4_addr . inet_service; }\n\
         add map inet pixels provisioning_resolvers { type ipv4_addr : inet_service; }\n\
         add map inet pixels provisioning_outward { type ipv4_addr : verdict; }\n\
         add map inet pixels provisioning_inward { type ipv4_addr : verdict; }\n",
    );
    add_identity(&mut text);
    add_limits(&mut text);
    add_refusal(
        &mut text,
        &[],
        &["ip saddr vmap @denials"],
        "meta l4proto tcp ct state established reject with tcp reset",
    );
    add_forwarding(&mut text, subnet, host);
    add_host_access(&mut text);
    add_gateway_access(&mut text, subnet);
    add_translation(&mut text, subnet);
    add_forwarder_chain(&mut text, FORWARDER_PORT);
    text.push_str(ARP);
    text
}

/// Returns the set elements that accept a pixel's addresses and assign its
/// policy and resolver: one element per line, without the verb.
pub fn elements(client: &Client, policy: &Chains, port: u16) -> String {
    let Client { mac, address, .. } = client;
    let id = &policy.id;
    let [mark, host_access] = policy.marks();
    let lease = lease_name(client);
    let denied = denied_set(Some(*address));
    format!(
        "element arp pixels pins {{ {mac} . {address} }}\n\
         element inet pixels pins {{ {mac} . {address} }}\n\
         element inet pixels leases {{ {mac} : jump {lease} }}\n\
         element inet pixels live {{ {address} . {mark:#x} }}\n\
         element inet pixels live {{ {address} . {host_access:#x} }}\n\
         element inet pixels resolvers {{ {address} : {port} }}\n\
         element inet pixels asks {{ {address} . {port} }}\n\
         element inet pixels denials {{ {address} : jump {denied} }}\n\
         element inet pixels outward {{ {address} : jump p_{id} }}\n\
         element inet pixels inward {{ {address} : jump r_{id} }}\n"
    )
}

/// Returns the set element that closes an address of the host to all rules
/// without an address.
pub fn host_element(address: Ipv4Addr) -> String {
    format!("element inet pixels host {{ {address} }}\n")
}

/// Returns the set elements that assign the policy and resolver of a
/// provisioning lease, in the format of [`elements`]. They have no effect while
/// the pixel has no lease.
pub fn provisioning_elements(client: &Client, policy: &Chains, port: u16) -> String {
    let address = client.address;
    let id = &policy.id;
    let [mark, host_access] = policy.marks();
    format!(
        "element inet pixels provisioning_live {{ {address} . {mark:#x} }}\n\
         element inet pixels provisioning_live {{ {address} . {host_access:#x} }}\n\
         element inet pixels provisioning_queries {{ {address} . {port} }}\n\
         element inet pixels provisioning_resolvers {{ {address} : {port} }}\n\
         element inet pixels provisioning_outward {{ {address} : jump p_{id} }}\n\
         element inet pixels provisioning_inward {{ {address} : jump r_{id} }}\n"
    )
}

fn lease_name(client: &Client) -> String {
    let mac = client.mac.replace(':', "");
    format!("l_{mac}_{:08x}", client.address.to_bits())
}

/// Returns name and text of the chain that accepts a pixel's DHCP requests, the
/// only accepted packets without the pixel's source address.
///
/// `chaddr` must be the pixel's MAC, so that a pixel cannot decline another
/// pixel's address. `ciaddr` must be the pixel's address or zero and `giaddr`
/// zero, so that the gateway does not send the answer to another pixel.
pub fn lease_chain(client: &Client) -> (String, String) {
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

/// Returns name and text of the chain that records what is denied to a pixel.
/// Each pixel has its own set, so that one pixel cannot fill another's record.
pub fn denial_chain(client: &Client) -> (String, String) {
    let name = denied_set(Some(client.address));
    let mut text = String::new();
    add_denied_set(&mut text, &name);
    add_chain(&mut text, &name, "", &record_denial(&name));
    (name, text)
}

/// Adds rules that drop packets with a source address of another pixel, and
/// redirect DNS to the resolver of the sender's policy.
fn add_identity(text: &mut String) {
    add_chain(text, "lease", "", &["ether saddr vmap @leases", "drop"]);
    add_chain(
        text,
        "identity",
        // Before defragmentation (-400), so that each fragment is checked.
        "filter hook prerouting priority -450; policy accept",
        &[
            "iifname != \"eth1\" accept",
            "meta nfproto ipv6 drop",
            "udp sport 68 udp dport 67 goto lease",
            "ether saddr . ip saddr != @pins drop",
        ],
    );
    add_chain(
        text,
        "resolve",
        "nat hook prerouting priority dstnat; policy accept",
        &[
            "iifname \"eth1\" ip saddr @provisioning meta l4proto { tcp, udp } th dport 53 \
           redirect to :ip saddr map @provisioning_resolvers",
            "iifname \"eth1\" meta nfproto ipv4 meta l4proto { tcp, udp } th dport 53 \
           redirect to :ip saddr map @resolvers",
        ],
    );
}

/// A connection has the mark of the policy that allowed it. After a policy
/// change, the new policy checks the connection again.
fn add_forwarding(text: &mut String, subnet: Subnet, host: Option<Ipv4Addr>) {
    add_chain(
        text,
        "outgoing",
        "",
        &[
            "ct direction original ct state established,related ip saddr . ct mark @live accept"
                .into(),
            format!("ct direction reply ct state established,related ct mark {INBOUND:#x} accept"),
            "ct direction original ip saddr vmap @outward".into(),
            "ct direction original ct state established,related ip saddr @provisioning \
             ip saddr . ct mark @provisioning_live accept"
                .into(),
            "ct direction original ip saddr @provisioning ip saddr vmap @provisioning_outward"
                .into(),
            "jump refuse".into(),
        ],
    );
    let mut incoming = vec![
        "ct direction reply ct state established,related ip daddr . ct mark @live accept".into(),
        "ct direction reply ct state established,related ip daddr vmap @inward".into(),
        "ct direction reply ct state established,related ip daddr @provisioning \
         ip daddr . ct mark @provisioning_live accept"
            .into(),
        "ct direction reply ct state established,related ip daddr @provisioning \
         ip daddr vmap @provisioning_inward"
            .into(),
        // Answer the first packet of a connection that is no longer allowed
        // with a reset, so that the program in the pixel fails at once.
        format!(
            "ct direction reply ct state established ct mark != {RESET:#x} \
             tcp flags set rst ct mark set {RESET:#x} accept"
        ),
        format!("ct direction original ct state established,related ct mark {INBOUND:#x} accept"),
    ];
    if let Some(host) = host {
        incoming.extend([
            // An answer of the host's resolver must not open a connection, in
            // case a pixel's query bypassed the gateway.
            format!("ip saddr {host} udp sport 53 drop"),
            format!(
                "ct direction original ct state new ip saddr {host} ip daddr {subnet} \
                 ct mark set {INBOUND:#x} accept"
            ),
        ]);
    }
    incoming.push("drop".into());
    add_chain(text, "incoming", "", &incoming);
    add_chain(
        text,
        "forwarding",
        "filter hook forward priority filter; policy drop",
        &[
            "meta nfproto ipv6 drop",
            "iifname \"eth1\" oifname \"eth0\" jump outgoing",
            "iifname \"eth0\" oifname \"eth1\" jump incoming",
            "iifname \"eth1\" jump refuse",
        ],
    );
}

/// Adds the rules that mark packets for the host. The host drops other packets
/// to its own addresses, so that it need not tell the gateway its addresses.
fn add_host_access(text: &mut String) {
    let grant = format!("ip dscp set {HOST_ACCESS_DSCP:#x}");
    add_chain(
        text,
        "host_access",
        "filter hook forward priority 10; policy accept",
        &[
            "oifname != \"eth0\" accept".into(),
            format!("ct mark & {HOST_ACCESS:#x} == {HOST_ACCESS:#x} {grant} accept"),
            format!("ip dscp {HOST_ACCESS_DSCP:#x} ip dscp set cs0"),
        ],
    );
    add_chain(
        text,
        "own_host_access",
        "filter hook output priority filter; policy accept",
        &[format!("oifname \"eth0\" {grant}")],
    );
}

/// Adds the rules for packets to the gateway.
fn add_gateway_access(text: &mut String, subnet: Subnet) {
    let gateway = subnet.gateway();
    add_chain(
        text,
        "to_gateway",
        "filter hook input priority filter; policy drop",
        &[
            "iifname \"lo\" accept".into(),
            "iifname \"eth0\" ct state established,related accept".into(),
            "iifname \"eth0\" meta nfproto ipv6 icmpv6 type { nd-neighbor-solicit, \
             nd-neighbor-advert, nd-router-advert } accept"
                .into(),
            // The DHCP lease of the gateway.
            "iifname \"eth0\" udp sport 67 udp dport 68 accept".into(),
            "iifname \"eth1\" ether type ip udp sport 68 udp dport 67 accept".into(),
            // Only packets that were redirected from port 53, and only to the
            // resolver of the sender's lease, or of its present policy: a flow that
            // is older than a change is still redirected to the previous resolver.
            "iifname \"eth1\" ct status dnat ip saddr @provisioning meta l4proto { tcp, udp } \
             ip saddr . th dport @provisioning_queries accept"
                .into(),
            format!(
                "iifname \"eth1\" ip daddr {gateway} ct status dnat meta l4proto {{ tcp, udp }} \
                 ip saddr . th dport @asks accept"
            ),
            "iifname \"eth1\" ct status dnat meta l4proto tcp reject with tcp reset".into(),
            "iifname \"eth1\" ct status dnat reject with icmpx admin-prohibited".into(),
            // Replies to DNS queries, and to connections from the host.
            "iifname \"eth1\" ct direction reply ct state established,related accept".into(),
            "iifname \"eth1\" jump refuse".into(),
        ],
    );
}

fn add_translation(text: &mut String, subnet: Subnet) {
    let gateway = subnet.gateway();
    add_chain(
        text,
        "translate",
        "nat hook postrouting priority srcnat; policy accept",
        &[
            format!("oifname \"eth0\" ip saddr {subnet} masquerade"),
            // Use the gateway's address, so that the host's own filter, which
            // may process bridged packets too, sees a separate connection.
            format!("oifname \"eth1\" ip saddr != {gateway} masquerade"),
        ],
    );
}

/// The gateway ignores ARP packets in which a pixel uses another address.
const ARP: &str = "\
add table arp pixels
add set arp pixels pins { type ether_addr . ipv4_addr; }
add chain arp pixels identity { type filter hook input priority filter; policy accept; }
flush chain arp pixels identity
add rule arp pixels identity iifname \"eth1\" arp saddr ether . arp saddr ip != @pins drop
";
