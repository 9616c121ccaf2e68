//! Preparing a host, against the real daemon of this machine.

use std::path::Path;
use std::process::Command;

use pixels::backend::incus::{Client, Endpoint};
use pixels::host::{self, Event, Options, Status};
use pixels::model::{Error, Result};
use serde_json::Value;

use crate::support::lab;

const SOCKET: &str = "/var/lib/incus/unix.socket";

fn options() -> Options {
    Options::new(
        Endpoint::Unix(SOCKET.into()),
        "ubuntu/24.04",
        "https://127.0.0.1:1",
    )
}

fn client() -> Client {
    Client::new(&Endpoint::Unix(SOCKET.into()), None).unwrap()
}

fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Server { code: 404, .. })
}

async fn target(client: &Client, alias: &str) -> Result<String> {
    let found: Value = client.get(&format!("/1.0/images/aliases/{alias}")).await?;
    Ok(found["target"].as_str().unwrap().to_owned())
}

/// Deletes what an earlier run has left behind.
async fn sweep(client: &Client, alias: &str) {
    match target(client, alias).await {
        Ok(fingerprint) => delete(client, &fingerprint).await,
        Err(error) => assert!(is_not_found(&error), "{error}"),
    }
}

async fn delete(client: &Client, fingerprint: &str) {
    let path = format!("/1.0/images/{fingerprint}");
    let running = client
        .start(reqwest::Method::DELETE, &path, &Value::Null)
        .await
        .unwrap();
    let limit = std::time::Duration::from_secs(60);
    running.wait("deleting an image", limit).await.unwrap();
}

fn run(program: &str, args: &[&str], dir: &Path) {
    let done = Command::new(program).args(args).current_dir(dir).output();
    let done = done.unwrap();
    assert!(
        done.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// The two parts of a small image that is different every time.
fn tiny_image(dir: &Path, salt: &str) {
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/salt"), salt).unwrap();
    let meta = "architecture: x86_64\ncreation_date: 1700000000\n\
                properties: {os: Debian, release: tiny, description: a test}\n";
    std::fs::write(dir.join("metadata.yaml"), meta).unwrap();
    run("tar", &["-cJf", "metadata.tar.xz", "metadata.yaml"], dir);
    run(
        "mksquashfs",
        &[
            "root",
            "rootfs.squashfs",
            "-comp",
            "zstd",
            "-noappend",
            "-quiet",
        ],
        dir,
    );
}

#[tokio::test]
#[ignore = "needs Incus"]
async fn image_import_creates_alias() {
    lab::ready();
    let alias = "px-t-host-import";
    let client = client();
    sweep(&client, alias).await;
    let dir = tempfile::tempdir().unwrap();
    tiny_image(dir.path(), &dir.path().to_string_lossy());
    let (metadata, rootfs) = (
        dir.path().join("metadata.tar.xz"),
        dir.path().join("rootfs.squashfs"),
    );
    let fingerprint = host::import(&client, &metadata, &rootfs, alias)
        .await
        .unwrap();
    assert_eq!(target(&client, alias).await.unwrap(), fingerprint);
    let image: Value = client
        .get(&format!("/1.0/images/{fingerprint}"))
        .await
        .unwrap();
    assert_eq!(image["type"], "container");
    assert_eq!(image["public"], false);
    assert_eq!(image["properties"]["os"], "Debian");
    assert_eq!(image["properties"]["description"], "a test");

    // The same again is refused, and changes nothing.
    let again = host::import(&client, &metadata, &rootfs, alias).await;
    assert!(matches!(again, Err(Error::Server { .. })), "{again:?}");
    assert_eq!(target(&client, alias).await.unwrap(), fingerprint);

    delete(&client, &fingerprint).await;
    assert!(is_not_found(&target(&client, alias).await.unwrap_err()));
}

#[tokio::test]
#[ignore = "needs Incus"]
async fn invalid_image_import_leaves_nothing() {
    lab::ready();
    let alias = "px-t-host-rubbish";
    let client = client();
    sweep(&client, alias).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rubbish");
    std::fs::write(&file, "no tarball").unwrap();
    let failed = host::import(&client, &file, &file, alias).await;
    assert!(matches!(failed, Err(Error::Server { .. })), "{failed:?}");
    assert!(is_not_found(&target(&client, alias).await.unwrap_err()));
}

#[tokio::test]
#[ignore = "needs Incus"]
async fn second_setup_changes_nothing() {
    lab::ready();
    let mut options = options();
    options.image = match host::fallback_image(&client()).await.unwrap() {
        Some(alias) => alias,
        None => panic!("the test machine has no image built by setup"),
    };
    let mut events = Vec::new();
    let report = host::setup(&options, &mut |event| events.push(event))
        .await
        .unwrap();
    assert!(report.done.is_empty(), "{report:?}");
    events.retain(|event| !matches!(event, Event::Waiting(_)));
    assert!(
        matches!(&events[..], [Event::Planned(plan)] if plan.is_empty()),
        "{events:?}"
    );
}

#[tokio::test]
#[ignore = "needs Incus"]
async fn doctor_finds_no_problem_after_setup() {
    lab::ready();
    let checks = host::doctor(&options(), Vec::new()).await;
    for id in [
        "access",
        "version",
        "extensions",
        "pool",
        "network",
        "image",
    ] {
        let check = checks.iter().find(|check| check.id == id).unwrap();
        assert!(check.status <= Status::Warning, "{check:?}");
    }
}

#[tokio::test]
async fn plan_without_daemon_installs_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options();
    options.endpoint = Endpoint::Unix(dir.path().join("unix.socket"));
    options.image_server = "https://127.0.0.1:1".into();
    let facts = host::inspect(&options).await.unwrap();
    let plan = host::plan(&facts, &options);
    assert!(facts.server.facts().is_none());
    assert!(
        plan.steps
            .iter()
            .any(|step| step.id == host::StepId::Daemon),
        "{plan:?}"
    );
}
