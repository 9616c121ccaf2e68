//! The files of a policy inside a pixel: nft and dnsmasq accept them.

use std::process::Command;

use pixels::egress::pixel::Files;
use pixels::egress::{Mode, Policy, presets};

use crate::support::lab;

fn policy(mode: Mode, allow: &[&str]) -> Files {
    let entries = allow.iter().map(|entry| entry.parse().unwrap());
    let policy = Policy::new(mode, entries).resolve(presets());
    Files::new(&policy, &[])
}

/// Runs the real programs, with nft in its own network namespace.
#[test]
#[ignore = "needs Incus"]
fn nft_and_dnsmasq_accept_every_policy() {
    // `pixels setup` installs nft and dnsmasq.
    lab::ready();
    let folder = tempfile::tempdir().unwrap();
    let mut batch = String::new();
    for files in [
        policy(
            Mode::Agent,
            &[
                "10.1.2.0/24",
                "*.b.example",
                "x.b.example:22",
                "192.0.2.7:443",
            ],
        ),
        policy(Mode::Allowlist, &[]),
        policy(Mode::Allowlist, &["a.example", "2001:db8::/32"]),
    ] {
        let [ruleset, resolver, forwarder] = files.variable_files(folder.path().to_str().unwrap());
        let [ruleset, text] = [ruleset.content, resolver.content.clone()]
            .map(|content| String::from_utf8(content).unwrap());
        assert!(forwarder.path.ends_with("/forwarder"));
        // The user does not exist on this machine.
        batch.push_str(&ruleset.replace("\"pixels-dns\"", "\"root\""));
        std::fs::write(&resolver.path, &text).unwrap();
        let tested = Command::new("dnsmasq")
            .arg("--test")
            .arg(format!("--conf-file={}", resolver.path))
            .output()
            .unwrap();
        assert!(tested.status.success(), "{tested:?}");
        assert!(text.lines().any(|line| line == "address=/#/"));
    }
    // The ruleset is loaded twice, as for a policy change.
    let path = folder.path().join("batch");
    std::fs::write(&path, &batch).unwrap();
    let script = "nft add table ip mine; nft -f \"$0\" && nft -f \"$0\" && nft list ruleset";
    let loaded = Command::new("unshare")
        .args(["--net", "sh", "-c", script])
        .arg(&path)
        .output()
        .unwrap();
    assert!(loaded.status.success(), "{loaded:?}");
    let listing = String::from_utf8(loaded.stdout).unwrap();
    assert_eq!(listing.matches("policy drop;").count(), 3, "{listing}");
    assert!(listing.contains("table ip mine"), "{listing}");
}
