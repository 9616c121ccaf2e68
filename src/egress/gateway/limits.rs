//! Limits per pixel in the gateway's packet filter: one pixel must not exhaust
//! the gateway's connection table or the resolvers that pixels share.

use crate::egress::nftables::add_chain;

/// Sets with the state of the limits, one element per pixel.
const SETS: &str = "\
add set inet pixels questions { type ipv4_addr; flags dynamic,timeout; timeout 1m; size 65535; }
add set inet pixels question_bytes { type ipv4_addr; flags dynamic,timeout; timeout 1m; size 65535; }
add set inet pixels opened { type ipv4_addr; flags dynamic,timeout; timeout 1m; size 65535; }
add set inet pixels dns_streams { type ipv4_addr; flags dynamic; size 65535; }
add set inet pixels connections { type ipv4_addr; flags dynamic; size 65535; }
";

/// Adds the limits. Packets above a limit are dropped without record or answer.
///
/// The sender's address is already verified. DHCP requests have none.
pub fn add_limits(text: &mut String) {
    text.push_str(SETS);
    // Before connection tracking, so that a flood costs little.
    add_chain(
        text,
        "questions",
        "filter hook prerouting priority -290; policy accept",
        &[
            "iifname != \"eth1\" accept",
            "udp dport 53 update @questions \
             { ip saddr limit rate over 100/second burst 500 packets } drop",
            // A stream may contain many questions.
            "tcp dport 53 update @question_bytes \
             { ip saddr limit rate over 10 kbytes/second burst 64 kbytes } drop",
        ],
    );
    add_chain(
        text,
        "limits",
        "filter hook prerouting priority mangle; policy accept",
        &[
            "iifname != \"eth1\" accept",
            "ct state != new accept",
            "ip saddr 0.0.0.0 accept",
            // Before the counts: each counted packet occupies memory for a while,
            // also if it is dropped.
            "update @opened { ip saddr limit rate over 500/second burst 4096 packets } drop",
            "tcp dport 53 add @dns_streams { ip saddr ct count over 5 } drop",
            "add @connections { ip saddr ct count over 4096 } drop",
        ],
    );
}
