//! Servers that send more than anything needs: they are left, told
//! of, and the memory of this side is its own.

use std::time::Duration;

use crate::support::env::TestEnv;
use crate::support::lab;
use crate::support::proxy::{Fault, Proxy};

/// Against a hang: what has no end is left within a few seconds.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn answers_without_an_end_are_left() {
    let Some(_lab) = lab::ready("answers_without_an_end_are_left") else {
        return;
    };
    let proxy = Proxy::start();
    let mut env = TestEnv::new("endless");
    env.set("PIXELS_INCUS_SOCKET", proxy.socket().to_str().unwrap());
    for (status, bound) in [(200, "64 MiB"), (500, "1 MiB")] {
        proxy.on("GET /1.0/instances?*", 0, Fault::Endless(status));
        let outcome = env.pixels_within(["list", "--json"], LIMIT);
        assert!(proxy.heal());
        assert_eq!(outcome.code, 1, "{outcome:?}");
        let error = &outcome.error();
        assert_eq!(error["kind"], "too_large", "{error}");
        let message = error["message"].as_str().unwrap();
        let socket = proxy.socket();
        let whose = format!("the answer of {} to /1.0/instances?", socket.display());
        assert!(message.contains(&whose), "{message}");
        assert!(
            message.ends_with(&format!("is larger than {bound}")),
            "{message}"
        );
    }
}
