//! A connection that breaks or returns invalid data, at every request of a
//! command: the command fails or succeeds, and leaves nothing incomplete.

use std::time::Duration;

use serde_json::Value;

use crate::support::env::{Outcome, TestEnv, finished};
use crate::support::proxy::{Fault, Proxy};
use crate::support::rounds::thorough;
use crate::support::server::Server;
use crate::support::{lab, wait};

/// Time limit to detect a hang; commands here take a few seconds.
const LIMIT: Duration = Duration::from_secs(60);
const WAIT: &str = "GET /1.0/operations/*/wait*";
/// The daemon's error for a command in a pixel that is starting.
const STARTING: &str = "Failed to retrieve PID of executing child process";

struct Bench {
    env: TestEnv,
    proxy: Proxy,
    server: Server,
}

impl Bench {
    fn new(test: &str) -> Self {
        let proxy = Proxy::start();
        let mut env = proxy.env(test);
        env.set("PIXELS_NETWORK_PLACEMENT", "pixel");
        Self {
            env,
            proxy,
            server: Server::shared(),
        }
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> Outcome {
        self.env.pixels_within(args, LIMIT)
    }

    /// Runs a command with a fault in the first request that matches.
    #[track_caller]
    fn run_with(&self, pattern: &str, fault: Fault, args: &[&str]) -> Outcome {
        self.proxy.forget().on(pattern, 0, fault);
        let outcome = self.run(args);
        assert!(self.proxy.heal(), "no request {pattern}");
        outcome
    }

    /// The pixel works after success and does not exist after failure.
    #[track_caller]
    fn whole_or_absent(&self, name: &str, outcome: &Outcome, reported: &str) {
        if outcome.code == 0 {
            let printed = self.env.pixels(["exec", name, "--", "hostname"]);
            assert_eq!(printed.stdout, format!("px-{name}\n"), "{reported}");
            let gone = self.env.pixels(["destroy", "--force", name]);
            assert_eq!(gone.code, 0, "{gone:?} {reported}");
        } else {
            assert_eq!(self.server.status(name), None, "{reported}");
        }
    }
}

/// Cuts the connection at the first request, then at the second, and so on,
/// until the command sends fewer requests and exits with `done`. `check`
/// receives each outcome. A short run tries only the first `modes` ways to cut.
#[track_caller]
fn cut_everywhere(
    bench: &Bench,
    args: &[&str],
    (modes, done): (usize, i32),
    mut check: impl FnMut(&Outcome, &str),
) {
    let cuts = [
        ("answer lost", Fault::CutAfterRequest),
        ("cut before", Fault::CutBefore),
        ("cut in the answer", Fault::CutAfterHeader),
    ];
    let few = if thorough() { 3 } else { modes };
    for (how, fault) in cuts.into_iter().take(few) {
        for spared in 0.. {
            bench.proxy.forget().on("*", spared, fault);
            let outcome = bench.run(args);
            let all = bench.proxy.heal();
            let context = format!(
                "{how} after {spared} requests: {outcome:?}\n{:#?}",
                bench.proxy.seen()
            );
            check(&outcome, &context);
            if !all {
                assert_eq!(outcome.code, done, "{context}");
                break;
            }
            assert!(spared < 60, "the command never succeeds: {context}");
        }
    }
    assert_eq!(bench.proxy.silent_connections(), 0);
}

/// pixels repeats a request that was never sent, so a command succeeds or
/// reports a lost server.
#[track_caller]
fn done_or_lost(outcome: &Outcome, context: &str) {
    assert!(matches!(outcome.code, 0 | 5), "{context}");
}

#[test]
#[ignore = "needs Incus"]
fn create_survives_connection_loss_at_any_request() {
    lab::ready();
    let bench = Bench::new("cutc");
    let name = bench.env.name("a");
    cut_everywhere(&bench, &["create", &name], (3, 0), |outcome, context| {
        done_or_lost(outcome, context);
        bench.whole_or_absent(&name, outcome, context);
    });
}

#[test]
#[ignore = "needs Incus"]
fn clone_survives_connection_loss_at_any_request() {
    lab::ready();
    let bench = Bench::new("cutf");
    let (source, clones) = (bench.env.create("s"), bench.env.name("c"));
    let args = ["fork", &source, "-n", "2", "--prefix", &clones];
    cut_everywhere(&bench, &args, (1, 0), |outcome, context| {
        done_or_lost(outcome, context);
        let made = bench.server.pixels(&clones);
        let expected = if outcome.code == 0 { 2 } else { 0 };
        assert_eq!(made.len(), expected, "{made:?} {context}");
        assert_eq!(bench.server.checkpoints(&source), [""; 0], "{context}");
        for name in &made {
            bench.whole_or_absent(name, outcome, context);
        }
    });
}

#[test]
#[ignore = "needs Incus"]
fn restore_survives_connection_loss_at_any_request() {
    lab::ready();
    let (bench, name) = with_pixel("cutr");
    let keep = ["exec", &name, "--", "touch", "/root/kept"];
    bench.run(&keep).ok();
    let checkpoint = ["checkpoint", "create", &name, "--label", "ready"];
    bench.run(&checkpoint).ok();
    let args = ["checkpoint", "restore", &name, "ready"];
    cut_everywhere(&bench, &args, (1, 0), |outcome, context| {
        done_or_lost(outcome, context);
        bench.server.settle(&name);
        let printed = wait::until("the pixel accepts commands", || {
            let printed = bench.env.pixels(["exec", &name, "--", "ls", "/root/kept"]);
            // The server starts the pixel after the connection was lost.
            let is_starting = outcome.code != 0 && printed.stderr.contains(STARTING);
            (!is_starting).then_some(printed)
        });
        assert_eq!(printed.stdout, "/root/kept\n", "{printed:?} {context}");
    });
}

/// A pixel shared by several tests, which do not change the pixel.
fn with_shared_pixel(test: &str) -> (Bench, String) {
    let mut bench = Bench::new(test);
    let name = bench.env.shared_pixel();
    (bench, name)
}

/// A new pixel, for a test that changes the pixel.
fn with_pixel(test: &str) -> (Bench, String) {
    let bench = Bench::new(test);
    let name = bench.env.create("e");
    (bench, name)
}

#[test]
#[ignore = "needs Incus"]
fn exec_survives_connection_loss_at_any_request() {
    lab::ready();
    let (bench, name) = with_shared_pixel("cute");
    let args = ["exec", &name, "--", "sh", "-c", "echo out; exit 7"];
    cut_everywhere(&bench, &args, (3, 7), |outcome, context| {
        match outcome.code {
            7 => assert_eq!(outcome.stdout, "out\n", "{context}"),
            125 => assert!(outcome.stderr.contains("cannot reach"), "{context}"),
            _ => panic!("{context}"),
        }
    });
}

#[test]
#[ignore = "needs Incus"]
fn exec_with_truncated_output_fails() {
    lab::ready();
    let (bench, name) = with_shared_pixel("drop");
    let many = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let long = "echo hello; sleep 3000";
    // The length of the output without the end-of-stream frame.
    let hello = 2 + "hello\n".len() as u64;
    let cases = [
        ("STREAM 1", 50_000, many),
        ("STREAM 1", 0, many),
        ("STREAM 1", hello, "echo hello"),
        ("STREAM 2", hello, "echo hello >&2"),
        // The command would continue to run.
        ("STREAM 1", 4, long),
        ("STREAM 2", 0, "echo hello >&2; sleep 3000"),
    ];
    let whole = bench.run(&["exec", &name, "--", "sh", "-c", many]).ok();
    for (stream, bytes, script) in cases {
        let args = ["exec", &name, "--", "sh", "-c", script];
        let outcome = bench.run_with(stream, Fault::CutStream(bytes), &args);
        let (code, stderr) = (outcome.code, &outcome.stderr);
        let context = format!("{stream} after {bytes}: {code} {stderr}");
        assert_eq!(code, 125, "{context}");
        assert!(stderr.contains("the command's output"), "{context}");
        if script == many {
            assert!(whole.stdout.starts_with(&outcome.stdout), "{context}");
        }
    }
    // The daemon kills a command without a control connection.
    bench.proxy.on("STREAM control", 0, Fault::CutStream(0));
    let outcome = bench.run(&["exec", &name, "--", "sh", "-c", long]);
    assert!(matches!(outcome.code, 125 | 137), "{outcome:?}");
}

const GARBAGE: &str = "<html>502 Bad Gateway</html>";
const CUT_JSON: &str = r#"{"type":"sync","status":"Success","metadata":["#;
const OTHER: &str = r#"{"hello":"world"}"#;
const FORBIDDEN: &str = r#"{"type":"error","error":"Forbidden","error_code":403}"#;
const BROKEN: &str = r#"{"type":"error","error":"disk on fire","error_code":500}"#;
const BUSY: &str = r#"{"type":"error","error":"Instance is busy running a \"update\" operation","error_code":400}"#;

#[test]
#[ignore = "needs Incus"]
fn invalid_responses_are_errors() {
    lab::ready();
    let (bench, name) = with_pixel("lies");
    let cases = [
        (502, GARBAGE, 1, "unexpected response"),
        (200, CUT_JSON, 1, "unexpected response"),
        (200, OTHER, 1, "unexpected response"),
        (200, "", 1, "unexpected response"),
        (403, FORBIDDEN, 5, "Forbidden"),
        (500, BROKEN, 1, "disk on fire"),
    ];
    for (status, body, code, text) in cases {
        for args in [
            &["list"][..],
            &["create", &bench.env.name("x"), "--from", &name],
            &["checkpoint", "list", &name],
            &["destroy", "--force", &name],
        ] {
            let outcome = bench.run_with("*", Fault::Answer(status, body), args);
            assert_eq!(outcome.code, code, "{args:?} {body}: {outcome:?}");
            outcome.reports(text);
        }
        // Each request of an exec reports the error.
        for request in ["GET /1.0/instances/*", "POST *exec*", WAIT] {
            let args = ["exec", &name, "--", "sleep", "0.2"];
            let outcome = bench.run_with(request, Fault::Instead(status, body), &args);
            assert_eq!(outcome.code, 125, "{request} {body}: {outcome:?}");
            outcome.reports(text);
        }
    }
    assert_eq!(bench.server.pixels(&bench.env.name("x")), [""; 0]);
    assert_eq!(bench.server.status(&name).as_deref(), Some("Running"));
}

#[test]
#[ignore = "needs Incus"]
fn exec_without_exit_code_fails() {
    lab::ready();
    let (bench, name) = with_shared_pixel("nort");
    fn result(answer: &mut Value) -> &mut Value {
        &mut answer["metadata"]["metadata"]
    }
    let changes: [fn(&mut Value); 4] = [
        |answer| drop(result(answer).as_object_mut().unwrap().remove("return")),
        |answer| result(answer)["return"] = Value::Null,
        |answer| result(answer)["return"] = "0".into(),
        |answer| *result(answer) = Value::Null,
    ];
    for change in changes {
        let outcome = bench.run_with(WAIT, Fault::Change(change), &["exec", &name, "--", "true"]);
        outcome.expect(125).reports("exit code");
    }
}

#[test]
#[ignore = "needs Incus"]
fn create_failing_on_server_leaves_nothing() {
    lab::ready();
    let (bench, source) = with_pixel("half");
    let name = bench.env.name("x");
    let failed: fn(&mut Value) = |answer| {
        answer["metadata"]["status_code"] = 400.into();
        answer["metadata"]["err"] = "no space left on device".into();
    };
    let (post, put) = ("POST /1.0/instances", "PUT */state");
    let cases = [
        (post, Fault::Instead(200, GARBAGE), 1, "unexpected response"),
        (post, Fault::Instead(500, BROKEN), 1, "disk on fire"),
        (post, Fault::Instead(403, FORBIDDEN), 5, "Forbidden"),
        (WAIT, Fault::Change(failed), 1, "no space left"),
        (WAIT, Fault::Instead(200, OTHER), 1, "unexpected response"),
        (put, Fault::Instead(500, BROKEN), 1, "disk on fire"),
        (put, Fault::Answer(200, CUT_JSON), 1, "unexpected response"),
        // A busy instance is not an error.
        (put, Fault::Answer(400, BUSY), 0, ""),
    ];
    for (request, fault, code, text) in cases {
        for args in [
            &["create", &name, "--from", &source][..],
            &["create", &name],
        ] {
            let outcome = bench.run_with(request, fault, args);
            let context = format!("{args:?} {request}: {outcome:?}\n{:#?}", bench.proxy.seen());
            // A failed start is not an error if the pixel runs.
            if outcome.code != 0 || !request.starts_with("PUT") {
                assert_eq!(outcome.code, code, "{context}");
                assert!(outcome.stderr.contains(text), "{context}");
            }
            bench.whole_or_absent(&name, &outcome, &context);
        }
    }
}

#[test]
#[ignore = "needs Incus"]
fn silent_server_times_out() {
    lab::ready();
    let (bench, name) = with_shared_pixel("stal");
    bench.proxy.on("GET /1.0/instances?*", 0, Fault::Stall);
    let listing = bench.env.spawn(["list"]);
    // The streams of a command have a shorter time limit.
    bench.proxy.on("STREAM 1", 0, Fault::Stall);
    let outcome = bench.run(&["exec", &name, "--", "true"]);
    outcome.expect(125).reports("did not finish");
    let outcome = finished(listing, LIMIT);
    outcome.expect(5).reports("no answer within");
    assert!(bench.proxy.heal());
}
