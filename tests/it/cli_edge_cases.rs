//! Input that scripts send by accident: empty values, unusual bytes, two calls
//! within one second, missing projects.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::support::env::TestEnv;
use crate::support::lab;

#[test]
fn mcp_startup_failure_prints_cause_once() {
    let mut env = TestEnv::bare();
    let file = env.home().join("file");
    std::fs::write(&file, "").unwrap();
    let pid = file.join("pid");
    // An empty option uses the value from the settings.
    env.set("PIXELS_MCP_PID_FILE", pid.to_str().unwrap());
    let empty = ["--pid-file", "", "--state-file", ""];
    for how in [&["--stdio"][..], &["--listen-addr", ""]] {
        let refused = env.pixels([&["mcp"], &empty[..], how].concat()).expect(1);
        let causes = refused.stderr.matches("os error").count();
        assert_eq!(causes, 1, "{}", refused.stderr);
    }
    env.set("PIXELS_BACKEND", "truenas");
    for how in ["--stdio", "--quiet"] {
        let refused = env.pixels(["mcp", how]).expect(2);
        assert!(refused.stderr.contains("truenas.host"), "{how}");
    }
}

#[test]
fn non_utf8_names_are_usage_errors() {
    let env = TestEnv::bare();
    let odd = OsStr::from_bytes(b"a\xff");
    let [create, exec, json] = ["create", "exec", "--json"].map(OsStr::new);
    for args in [&[create, odd][..], &[exec, odd, OsStr::new("true")]] {
        let refused = env.pixels(args).expect(2);
        assert!(refused.stderr.starts_with("error: "), "{}", refused.stderr);
        let error = env.pixels([&[json], args].concat()).expect(2).error();
        assert_eq!(error["kind"], "usage", "{error}");
    }
}

#[test]
fn negative_values_are_reported_as_invalid() {
    let env = TestEnv::bare();
    for (args, option) in [
        (&["create", "a", "--memory", "-1"][..], "--memory"),
        (&["create", "a", "--cpu", "-1"], "--cpu"),
        (&["create", "a", "--ttl", "-1"], "--ttl"),
        (&["fork", "a", "-n", "-1"], "--count"),
        (&["fork", "a", "--ttl", "-1"], "--ttl"),
        (&["exec", "--timeout", "-1", "a", "--", "true"], "--timeout"),
        (&["expire", "a", "-1"], "<DURATION|never>"),
        (&["top", "--interval", "-1"], "--interval"),
    ] {
        let refused = env.pixels(args).expect(2).stderr;
        assert!(refused.contains("invalid value '-1'"), "{refused}");
        assert!(refused.contains(option), "{refused}");
    }
}

#[test]
#[ignore = "needs Incus"]
fn empty_option_values_use_defaults() {
    lab::ready();
    let mut env = TestEnv::new("empty");
    env.set("PIXELS_DEFAULT_CPU", "1")
        .set("PIXELS_DEFAULT_MEMORY", "300");
    let name = env.name("a");
    let empty = ["--image", "", "--cpu", "", "--memory", "0", "--egress", ""];
    let made = env.pixels([&["create", &name], &empty[..]].concat()).ok();
    // An empty `--egress` may be a mistake, so pixels prints a warning.
    let warned = "--egress is empty: the pixel gets network.egress, which is unrestricted";
    assert!(made.stderr.contains(warned), "{}", made.stderr);
    let all = env.pixels(["list", "--json"]).ok().json();
    let all = all.as_array().unwrap();
    let pixel = all.iter().find(|pixel| pixel["name"] == *name).unwrap();
    let memory = (300 << 20).to_string();
    for (key, value) in [
        ("cpu", "1"),
        ("memory", &memory),
        ("egress", "unrestricted"),
    ] {
        assert_eq!(pixel[key], value, "{key}");
    }
    let create = ["checkpoint", "create", &name, "--label", "", "--json"];
    let labelled = env.pixels(create).ok().json();
    let label = labelled["label"].as_str().unwrap();
    assert!(label.starts_with("px-"), "{labelled}");
}

#[test]
#[ignore = "needs Incus"]
fn list_with_unknown_project_fails() {
    lab::ready();
    let mut env = TestEnv::bare();
    env.set("PIXELS_INCUS_PROJECT", "no-such-project");
    let missing = env.pixels(["list", "--json"]).expect(3);
    let printed = missing.error()["message"].as_str().unwrap().to_owned();
    assert_eq!(printed, "project \"no-such-project\" not found");
}

#[test]
#[ignore = "needs Incus"]
fn start_of_exiting_pixel_fails() {
    lab::ready();
    let env = TestEnv::new("dead");
    let name = env.create("a");
    let script = "ln -sf /bin/true /sbin/init";
    env.pixels(["exec", &name, "--", "sh", "-c", script]).ok();
    env.pixels(["stop", "--force", &name]).ok();
    let ended = env.pixels(["start", &name]).expect(1);
    assert_eq!(ended.stdout, "");
    assert!(ended.stderr.contains("stopped again"), "{}", ended.stderr);
}
