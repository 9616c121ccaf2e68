//! One pixel floods the gateway. Other pixels, also those with the same policy,
//! keep their network and a complete log.

use std::path::Path;

use serde_json::Value;

use crate::egress_flows::{Running, helper};
use crate::support::env::TestEnv;
use crate::support::lab;
use crate::support::wait::eventually;
use crate::support::walls::Walls;
use crate::support::wan::Wan;

/// Maximum number of denials that `network log` prints.
const REPORTED: usize = 200;

fn log(env: &TestEnv, pixel: &str) -> Vec<String> {
    let log = ["network", "log", pixel, "--json"];
    let log: Value = env.pixels(log).ok().json();
    let rows = log.as_array().unwrap().iter();
    rows.map(|row| row["destination"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
#[ignore = "needs Incus"]
fn flood_of_one_pixel_leaves_others_unharmed() {
    lab::ready();
    let walls = Walls::new("fld", Wan::any());
    let (env, wan) = (&walls.env, &walls.wan);
    wan.name("allowed.test", &[10]);
    let hostile = walls.create("a", "allowlist", &["allowed.test"]);
    let neighbor = walls.create("e", "allowlist", &["allowed.test"]);
    walls.comes_to_reach(&hostile, "allowed.test", 80);
    walls.comes_to_reach(&neighbor, "allowed.test", 80);
    let server = walls.gateway().address;
    let attacker = walls.place(&hostile).address;
    let victim = walls.place(&neighbor).address;
    let run = |line: &str| helper(env, &hostile, &[line]).remove(0);
    let count = |command: &[&str]| {
        let printed = walls.server.run(&walls.gateway_name(), command);
        printed.trim().parse::<u32>().unwrap()
    };
    let tracked = || count(&["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]);
    // Unlike the kernel's count, the list has no expired connections.
    let live = |pattern: &str| count(&["grep", "-c", pattern, "/proc/net/nf_conntrack"]);

    // Names: each row is QUERY, name in the log. The pixel cannot add to the log
    // of another pixel.
    let forged = format!("x.test+is+NXDOMAIN+7+{victim}/9+config+forged.test");
    run(&format!("ask {server} {forged}"));
    run(&format!("ask {server} +blank.test"));
    run(&format!("ask {server} MiXed.test"));
    for name in ["?blank.test", "mixed.test"] {
        eventually("the name is logged", || {
            log(env, &hostile).contains(&name.into())
        });
    }
    let own = log(env, &hostile);
    assert!(
        own.iter().any(|name| name.ends_with("?forged.test")),
        "{own:?}"
    );
    assert_eq!(log(env, &neighbor), Vec::<String>::new());

    // The host does not track packets between pixels and their gateway.
    let bridged = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    let previous = std::fs::read(bridged).unwrap();
    std::fs::write(bridged, "1").unwrap();
    let on_host = || {
        let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
        count.unwrap().trim().parse::<u32>().unwrap()
    };
    let before = on_host();
    run("probe 20000");
    let added = on_host().saturating_sub(before);
    std::fs::write(bridged, previous).unwrap();
    assert!(added < 5000, "{added} connections on the host");

    // Floods of names, addresses and connections, denied and allowed.
    run(&format!("flood {server} 20000"));
    run("probe 20000");
    run(&format!("scatter {} 5000", wan.address(20)));
    run(&format!("scatter {} 20000", wan.address(10)));
    // Assured flows, which the kernel does not evict.
    run(&format!("assure {server} 6000"));
    assert!(tracked() < 6000, "{} connections", tracked());
    // The gateway's journal contains no denied names.
    let journal = ["sh", "-c", "journalctl --quiet | grep -c flood || :"];
    assert_eq!(walls.server.run(&walls.gateway_name(), &journal), "0\n");
    // Slower than the limit on new connections, so that only the quota stops it. The
    // kernel forgets connections without an answer after 30 seconds.
    run(&format!("scatter {} 6000 450", wan.address(10)));
    // The quota does not count closed TCP connections, which the kernel keeps for a
    // while.
    let (flows, all) = (live(&format!("udp .* src={attacker} ")), live(""));
    assert!((3000..4100).contains(&flows), "{flows} UDP flows");
    // The others are mostly the gateway's own queries, up to 100 per second.
    assert!((3000..5000).contains(&all), "{all} connections");
    let own = log(env, &hostile);
    assert_eq!(own.len(), REPORTED, "{own:?}");

    let ask = |way: &str| {
        let line = format!("ask {server} allowed.test 1 1 {way}");
        helper(env, &neighbor, &[&line]).remove(0)
    };
    // Longer than the queries of the neighbor take.
    let flood = format!("flood {server} 100000000");
    let flood = Running::start(env, &hostile, &flood);
    let received = || {
        let count = ["cat", "/sys/class/net/eth1/statistics/rx_packets"];
        let printed = walls.server.run(&walls.gateway_name(), &count);
        printed.trim().parse::<u64>().unwrap()
    };
    for way in ["udp", "tcp", "udp", "tcp"] {
        let before = received();
        let answer = ask(way);
        assert!(answer.contains("answers=1"), "{way}: {answer}");
        let during = received() - before;
        assert!(during > 1000, "only {during} packets of the flood");
    }
    drop(flood);

    // All TCP connections that one resolver accepts by default.
    let hold = format!("hold {server} 60");
    let mut held = Running::start(env, &hostile, &hold);
    held.prints(1);

    let denied = wan.address(20).to_string();
    assert!(!walls.reaches(&neighbor, &denied, 80));
    assert!(!walls.reaches(&neighbor, "denied.test", 80));
    assert!(walls.reaches(&neighbor, "allowed.test", 80));
    for way in ["udp", "tcp"] {
        let answer = ask(way);
        assert!(answer.contains("answers=1"), "{way}: {answer}");
    }
    let address = format!("{denied}:80");
    let expected = ["denied.test", &address];
    eventually("the neighbor's denials are logged", || {
        let log = log(env, &neighbor);
        expected.iter().all(|one| log.iter().any(|row| row == one))
    });
    let full = env.pixels(["network", "log", &hostile]).ok();
    assert!(full.stderr.contains("earlier denials"), "{full:?}");
    assert!(full.stderr.contains("were not recorded"), "{full:?}");
}
