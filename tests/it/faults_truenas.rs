//! Faults on the connection to a TrueNAS server. A command reports an error or
//! completes; it never hangs and never creates a second instance.

use std::time::Duration;

use serde_json::json;

use crate::support::env::{Outcome, TestEnv};
use crate::support::rounds;
use crate::support::truenas::{Fault, LoginAnswer, Nas, RateLimit};

/// Time limit of a command, to detect a hang.
const LIMIT: Duration = Duration::from_secs(100);

/// The property of a pixel that is set when SSH works.
const CONTACT: &str = "\"environment.pixels__contact\":\"done\"";

/// The command exits with 0, 1 or 5, and a failure prints a reason.
#[track_caller]
fn ends(outcome: &Outcome, what: &str) {
    assert!([0, 1, 5].contains(&outcome.code), "{what}: {outcome:?}");
    assert!(outcome.code == 0 || !outcome.stderr.is_empty(), "{what}");
    assert!(!outcome.stderr.contains("panicked"), "{what}: {outcome:?}");
}

const FAULTS: usize = 6;

/// The faults for a call; consecutive numbers give different faults.
fn fault(number: usize) -> Fault {
    match number % FAULTS {
        0 => Fault::CutBefore,
        1 => Fault::CutDuring,
        2 => Fault::CutAfter,
        3 => Fault::Late(Duration::from_secs(1)),
        4 => Fault::FailJob,
        _ => Fault::FullQueue,
    }
}

/// Whether a call only reads. All such calls use the same code in the client.
fn asks(method: &str) -> bool {
    let asking = [
        "query",
        "stat",
        "listdir",
        "config",
        "summary",
        "version",
        "get_jobs",
        "subscribe",
    ];
    asking.iter().any(|word| method.ends_with(word))
}

/// Runs the command repeatedly, each time with a fault in one call that changes
/// something; a thorough run tries all faults in all calls. `again` checks the
/// outcome of each run and restores the state.
fn every_call(nas: &Nas, env: &TestEnv, args: &[&str], mut again: impl FnMut(&Outcome, &str)) {
    nas.forget();
    let plain = env.pixels_within(args, LIMIT).ok();
    let calls = nas.seen();
    again(&plain, "without a fault");
    let mut turn = 0;
    for (index, method) in calls.iter().enumerate() {
        let faults = match (rounds::thorough(), asks(method)) {
            (true, _) => 0..FAULTS,
            (false, true) => continue,
            (false, false) => {
                turn += 2;
                turn - 2..turn
            }
        };
        for number in faults {
            let fault = fault(number);
            let waits = matches!(fault, Fault::FullQueue);
            let what = format!("{fault:?} at call {index} of {args:?}, {method}");
            let spared = calls[..index].iter().filter(|one| *one == method).count();
            nas.on(method, spared, fault);
            let outcome = env.pixels_within(args, LIMIT);
            ends(&outcome, &what);
            assert!(!waits || outcome.code == 0, "{what}: {outcome:?}");
            nas.heal();
            again(&outcome, &what);
        }
    }
}

#[test]
#[ignore = "needs Incus"]
fn truenas_clone_survives_connection_loss_at_any_call() {
    let (nas, env) = Nas::lab("25.10.1", "lost");
    let (a, b) = (env.name("a"), env.name("b"));
    env.pixels(["create", &a]).ok();
    env.checkpoint(&a, "base");

    let copy = ["create", &b, "--from", &format!("{a}:base")];
    every_call(&nas, &env, &copy, |outcome, what| {
        let there = env.remaining().contains(&b);
        assert_eq!(there, outcome.code == 0, "{what}: {outcome:?}");
        if there {
            env.pixels(["destroy", "-f", &b]).ok();
        }
        assert_eq!(nas.cron(), 0, "{what}");
    });
}

#[test]
#[ignore = "needs Incus"]
fn truenas_checkpoints_survive_connection_loss() {
    let (nas, env) = Nas::lab("25.10.1", "cut");
    let a = env.create("a");
    env.checkpoint(&a, "base");
    let label = "cp";
    let checkpoint = ["checkpoint", "create", &a, "--label", label];
    every_call(&nas, &env, &checkpoint, |outcome, what| {
        let there = nas.snapshots_of(&a).contains(&label.to_owned());
        assert!(there || outcome.code != 0, "{what}: {outcome:?}");
        if there {
            env.pixels(["checkpoint", "delete", &a, label]).ok();
        }
    });

    every_call(
        &nas,
        &env,
        &["checkpoint", "restore", &a, "base"],
        |outcome, what| {
            // A failed restore may stop the pixel but must not lose its disk.
            if outcome.code != 0 {
                env.pixels(["start", &a]).ok();
            }
            let alive = env.pixels(["exec", &a, "--", "true"]);
            assert_eq!(alive.code, 0, "{what}: {alive:?}");
        },
    );

    every_call(&nas, &env, &["stop", "--force", &a], |_, _| {
        env.pixels(["start", &a]).ok();
    });
    for fault in [Fault::CutBefore, Fault::CutAfter] {
        nas.on("auth.login_ex", 0, fault);
        ends(&env.pixels_within(["list"], LIMIT), "login");
        nas.heal();
    }
    every_call(&nas, &env, &["list"], |outcome, what| {
        assert_eq!(outcome.code == 0, outcome.stdout.contains(&a), "{what}");
    });
}

#[test]
#[ignore = "needs Incus"]
fn truenas_25_04_create_survives_faults() {
    let (nas, env) = Nas::lab("25.04.2", "lost");
    let a = env.name("a");
    // After the reconnect, the job is found by its arguments.
    nas.on("virt.instance.create", 0, Fault::CutAfter);
    nas.on("virt.instance.start", 0, Fault::CutAfter);
    nas.on("virt.instance.restart", 0, Fault::CutAfter);
    let made = env.pixels_within(["create", &a], LIMIT);
    ends(&made, "create");
    assert_eq!(
        env.remaining().len(),
        usize::from(made.code == 0),
        "{made:?}"
    );
    env.pixels(["destroy", "-f", &a])
        .expect(if made.code == 0 { 0 } else { 3 });
    for method in [
        "virt.instance.create",
        "virt.instance.start",
        "virt.instance.restart",
        "virt.instance.update",
    ] {
        for fault in [Fault::FailJob, Fault::Restart, Fault::FullQueue] {
            let what = format!("{fault:?} at {method}");
            let waits = matches!(fault, Fault::FullQueue);
            nas.heal();
            nas.on(method, 0, fault);
            let made = env.pixels_within(["create", &a], LIMIT);
            ends(&made, &what);
            if waits {
                // Jobs of other clients are not mistaken for own jobs.
                assert_eq!(made.code, 0, "{what}: {made:?}");
                assert!(nas.noted(&a).contains(CONTACT), "{what}");
            }
            let left = env.remaining();
            assert_eq!(left.len(), usize::from(made.code == 0), "{what}: {made:?}");
            if made.code == 0 {
                env.pixels(["destroy", "-f", &a]).ok();
            }
        }
    }
}

#[test]
#[ignore = "needs Incus"]
fn truenas_busy_or_silent_is_retried_then_fails() {
    let (nas, env) = Nas::lab("25.10.1", "silent");
    let full =
        json!({"code": -32000, "message": "Maximum number of concurrent calls (20) has exceeded"});
    nas.on("virt.instance.query", 0, Fault::Refuse(full.clone()));
    env.pixels_within(["list"], LIMIT).ok();
    // If the server stays busy, the command fails and leaves nothing.
    for method in ["virt.instance.query", "virt.instance.create"] {
        for _ in 0..4 {
            nas.on(method, 0, Fault::Refuse(full.clone()));
        }
        let refused = env.pixels_within(["create", &env.name("a")], LIMIT);
        assert!(refused.stderr.contains("concurrent calls"), "{refused:?}");
        assert_eq!(refused.code, 1, "{method}: {refused:?}");
        nas.heal();
        assert_eq!(env.remaining(), [""; 0], "{method}: {refused:?}");
    }
    let out = json!({"code": -32001, "message": "Method call error", "data": {"error": 207,
        "errname": "ENOTAUTHENTICATED", "reason": "[ENOTAUTHENTICATED] Not authenticated",
        "trace": null, "extra": null}});
    nas.on("virt.instance.query", 0, Fault::Refuse(out));
    let before = nas.logins();
    env.pixels_within(["list"], LIMIT).ok();
    assert_eq!(nas.logins() - before, 2);
    assert!(nas.heal());
    let role = json!({"code": -32001, "message": "Method call error", "data": {"error": 13,
        "errname": "EACCES", "reason": "[EACCES] Not authorized", "trace": null, "extra": null}});
    nas.on("virt.instance.query", 0, Fault::Refuse(role));
    let refused = env.pixels_within(["list"], LIMIT).expect(5);
    assert!(
        refused.stderr.contains("Not authorized"),
        "{}",
        refused.stderr
    );
    // Without an answer or a pong, the client reconnects.
    nas.on("virt.instance.query", 0, Fault::Silence);
    env.pixels_within(["list"], LIMIT).ok();
    // While the service starts, the list is empty although pixels exist.
    nas.service(Some("INITIALIZING"));
    let early = env.pixels(["list"]).expect(1);
    assert!(early.stderr.contains("initializing"), "{}", early.stderr);
    env.pixels(["exec", &env.name("a"), "--", "true"])
        .expect(125);
    nas.service(None);
}

#[test]
#[ignore = "needs Incus"]
fn truenas_login_rate_limit_is_retried() {
    let (nas, env) = Nas::lab("25.04.2", "rate");
    // Like the limit of TrueNAS, 20 logins per minute, with smaller numbers.
    let mut limit = RateLimit {
        calls: 3,
        window: Duration::from_secs(20),
        pause: Duration::from_secs(1),
    };
    nas.limit_logins(limit);
    for _ in 0..limit.calls {
        env.pixels_within(["list"], LIMIT).ok();
    }
    env.pixels_within(["list"], LIMIT).ok();
    let attempts = nas.limited();
    assert!((1..=6).contains(&attempts), "{attempts}");
    // With a longer window, waiting for one minute does not help.
    limit.window = Duration::from_secs(600);
    limit.calls = 0;
    nas.limit_logins(limit);
    let refused = env.pixels_within(["list"], LIMIT).expect(5);
    assert!(refused.stderr.contains("20 logins a minute"), "{refused:?}");
    assert!(nas.limited() - attempts < 10, "{}", nas.limited());
}

#[test]
#[ignore = "needs Incus"]
fn truenas_login_failures_have_own_messages() {
    let (nas, mut env) = Nas::lab("25.10.1", "login");
    let say = |env: &TestEnv| env.pixels(["list"]).expect(5).stderr;
    for (answer, word) in [
        (json!({"response_type": "AUTH_ERR"}), "was refused"),
        (json!({"response_type": "EXPIRED"}), "expired"),
        (
            json!({"response_type": "OTP_REQUIRED", "username": "root"}),
            "second factor",
        ),
        (
            json!({"response_type": "REDIRECT", "urls": ["https://other.test"]}),
            "other.test",
        ),
        (json!({"response_type": "DENIED"}), "no access"),
    ] {
        let before = nas.logins();
        nas.answer_logins(LoginAnswer::Always(answer));
        let printed = say(&env);
        assert!(printed.contains(word), "{printed}");
        assert_eq!(nas.logins() - before, 1, "a failed login is not repeated");
    }
    nas.answer_logins(LoginAnswer::NotAllowed);
    assert!(say(&env).contains("allowed addresses"));
    nas.answer_logins(LoginAnswer::NoApi);
    assert!(say(&env).contains("25.04"));
    env.pixels(["doctor"]).expect(2);
    nas.answer_logins(LoginAnswer::ByKey);
    env.pixels(["list"]).ok();
    env.pixels(["doctor"]).ok();
    // `setup` and `quickstart` do not prepare a TrueNAS server.
    env.pixels(["setup", "--dry-run"]).expect(2);
    env.pixels(["quickstart", "--yes"]).expect(2);

    // The server's certificate is not signed by a CA of the system.
    let fingerprint = nas.fingerprint.clone();
    env.set("PIXELS_TRUENAS_FINGERPRINT", "");
    let printed = say(&env);
    assert!(
        printed.contains("certificate") && printed.contains(&fingerprint),
        "{printed}"
    );
    env.set("PIXELS_TRUENAS_FINGERPRINT", &"0".repeat(64));
    env.set("PIXELS_TRUENAS_INSECURE", "true");
    assert!(say(&env).contains("certificate"));
    env.set("PIXELS_TRUENAS_FINGERPRINT", "");
    env.pixels(["list"]).ok();
    env.set("PIXELS_TRUENAS_INSECURE", "");
    let file = env.home().join("nas.pem");
    std::fs::write(&file, &nas.certificate).unwrap();
    env.set("PIXELS_TRUENAS_SERVER_CERT", file.to_str().unwrap());
    env.pixels(["list"]).ok();
    env.set("PIXELS_TRUENAS_HOST", "ws://nas.test");
    let plain = env.pixels(["list"]).expect(2);
    assert!(plain.stderr.contains("TLS"), "{}", plain.stderr);
    env.set("PIXELS_TRUENAS_HOST", "127.0.0.1");
}
