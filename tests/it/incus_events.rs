//! The event stream of the real daemon.

use std::time::Duration;

use pixels::backend::incus::{Client, Endpoint, Events};

use crate::support::env::TestEnv;
use crate::support::lab;

#[tokio::test]
#[ignore = "needs Incus"]
async fn event_stream_reports_checkpoint() {
    lab::ready();
    let env = TestEnv::new("events");
    let name = env.name("a");
    env.pixels(["create", &name]).ok();

    let endpoint = Endpoint::Unix("/var/lib/incus/unix.socket".into());
    let client = Client::new(&endpoint, None).unwrap();
    let mut events = Events::subscribe(&client, &["lifecycle"]).await.unwrap();
    env.pixels(["checkpoint", "create", &name, "--label", "seen"])
        .ok();
    let source = format!("/1.0/instances/px-{name}/snapshots/seen");
    let seen = async {
        loop {
            let event = events.next().await.unwrap();
            assert_eq!(event.kind, "lifecycle");
            if event.metadata["action"] == "instance-snapshot-created" {
                let reported = event.metadata["source"].as_str().unwrap_or_default();
                if reported.starts_with(&source) || reported.ends_with(&format!("px-{name}")) {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), seen)
        .await
        .expect("the daemon announces it");
}
