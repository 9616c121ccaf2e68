//! Egress policies of pixels on TrueNAS, enforced by the pixels: after
//! creation, in clones, after restores, and after changes.

use serde_json::{Value, json};

use crate::support::env::{Outcome, TestEnv};
use crate::support::truenas::Nas;
use crate::support::wait;
use crate::support::wan_pixel::Wan;

#[test]
#[ignore = "needs Incus"]
fn truenas_25_04_pixels_enforce_policies() {
    enforced(Nas::lab("25.04.2", "egress"));
}

#[test]
#[ignore = "needs Incus"]
fn truenas_25_10_pixels_enforce_policies() {
    enforced(Nas::lab("25.10.1", "egress"));
}

/// A pixel whose resolver is that of a fake internet.
struct Isolated {
    wan: &'static Wan,
    env: TestEnv,
    name: String,
}

impl Isolated {
    fn sh(&self, script: &str) -> Outcome {
        let argv = ["exec", &self.name, "--", "bash", "-c", script];
        self.env.pixels(argv)
    }

    fn answers(&self, host: &str) -> bool {
        let script = format!("timeout 5 head -n 1 </dev/tcp/{host}/80");
        self.sh(&script).stdout == "hello\n"
    }

    #[track_caller]
    fn comes_to_answer(&self, host: &str, expected: bool) {
        wait::eventually(host, || self.answers(host) == expected);
    }

    /// The number of accepted SSH logins.
    fn logins(&self) -> usize {
        let script = "journalctl -q -o cat -t sshd -t sshd-session | grep -c ^Accepted";
        self.sh(script).ok().stdout.trim().parse().unwrap()
    }

    fn network(&self, verb: &str, more: &[&str]) -> Outcome {
        let args = ["network", verb, &self.name].into_iter();
        self.env.pixels(args.chain(more.iter().copied()))
    }

    /// The mode and the rules of the pixel.
    #[track_caller]
    fn shown(&self) -> (Value, Value) {
        let shown = self.network("show", &["--json"]).ok().json();
        (shown["mode"].clone(), shown["in_force"].clone())
    }
}

fn rules(env: &TestEnv, name: &str) -> String {
    let argv = ["exec", "-u", "root", name, "--", "nft", "list", "ruleset"];
    env.pixels(argv).ok().stdout
}

fn enforced((_nas, env): (Nas, TestEnv)) {
    let wan = Wan::up();
    env.config(&format!("[defaults]\ndns = [\"{}\"]\n", wan.resolver()));
    let (a, b) = (env.name("a"), env.name("b"));
    let create = ["create", &a, "--egress", "allowlist"];
    let allowed = ["--allow", "allowed.test"];
    env.pixels(create.into_iter().chain(allowed)).ok();
    let isolated = Isolated { wan, env, name: a };
    refused_and_logged(&isolated);
    changes(&isolated);

    let Isolated { env, name: a, .. } = isolated;
    env.checkpoint(&a, "isolated");
    env.pixels(["create", &b, "--from", &format!("{a}:isolated")])
        .ok();
    assert!(rules(&env, &b).contains("reject"));
    // A clone cannot change its policy before it runs.
    let c = env.name("c");
    let refused = env
        .pixels(["create", &c, "--from", &a, "--egress", "agent"])
        .expect(1);
    assert!(refused.stderr.contains("network set"), "{}", refused.stderr);
    env.pixels(["network", "set", &a, "unrestricted"]).ok();
    assert!(!rules(&env, &a).contains("reject"));
    env.pixels(["stop", "--force", &a]).ok();
    env.pixels(["start", &a]).ok();
    assert!(!rules(&env, &a).contains("reject"));
    // A restore of the disk also restores the policy.
    env.pixels(["checkpoint", "restore", &a, "isolated"]).ok();
    assert!(rules(&env, &a).contains("reject"));
    let shown = env.pixels(["network", "show", &a, "--json"]).ok().json();
    assert_eq!(shown["mode"], "allowlist", "{shown}");
    assert_eq!(env.remaining().len(), 2);
}

/// Denied connections are logged, and the command in the log allows them.
fn refused_and_logged(isolated: &Isolated) {
    let (wan, name) = (isolated.wan, &isolated.name);
    isolated.comes_to_answer("allowed.test", true);
    isolated.sh("getent hosts denied.test").expect(2);
    wan.refuses_and_logs(&isolated.env, name);
}

fn changes(isolated: &Isolated) {
    let allowed = json!(["allowed.test"]);
    assert_eq!(isolated.shown(), (json!("allowlist"), allowed.clone()));
    isolated.comes_to_answer("other.test", false);
    isolated.network("allow", &["other.test:80"]).ok();
    isolated.comes_to_answer("other.test", true);
    assert_eq!(isolated.shown().1, json!(["allowed.test", "other.test:80"]));
    isolated.network("deny", &["other.test:80"]).ok();
    assert!(!isolated.answers("other.test"));
    assert_eq!(isolated.shown(), (json!("allowlist"), allowed.clone()));

    isolated.network("set", &["agent"]).ok();
    assert_eq!(isolated.shown().0, "agent");
    assert!(!isolated.answers("allowed.test"));
    isolated.network("set", &["unrestricted"]).ok();
    assert_eq!(isolated.shown().0, "unrestricted");
    assert!(!rules(&isolated.env, &isolated.name).contains("reject"));
    let narrow = ["allowlist", "--allow", "allowed.test"];
    let before = isolated.logins();
    isolated.network("set", &narrow).ok();
    // One login changed the policy, and one login runs the count.
    assert_eq!(isolated.logins(), before + 2);
    assert_eq!(isolated.shown(), (json!("allowlist"), allowed));
    isolated.comes_to_answer("allowed.test", true);
    assert!(!isolated.answers("other.test"));
}
