//! Host setup on this machine's real daemon.

use std::path::Path;
use std::process::Command;

use pixels::backend::incus::{Client, Endpoint};
use pixels::host::{self, Event, Options, Status};
use pixels::model::Error;
use serde_json::Value;

use crate::support::lab;
use crate::support::server::{SHARED, Server};

fn options() -> Options {
    Options::new(
        Endpoint::Unix(SHARED.into()),
        "ubuntu/24.04",
        "https://127.0.0.1:1",
    )
}

fn client() -> Client {
    Client::new(&Endpoint::Unix(SHARED.into()), None).unwrap()
}

/// The fingerprint of the image with this alias, if the image exists.
fn target(alias: &str) -> Option<String> {
    let path = format!("/1.0/images/aliases/{alias}");
    let answer = Server::shared().call("GET", &path, &Value::Null).unwrap();
    if answer["error_code"] == 404 {
        return None;
    }
    Some(answer["metadata"]["target"].as_str().unwrap().to_owned())
}

/// Deletes the image that an earlier run left.
fn sweep(alias: &str) {
    if let Some(fingerprint) = target(alias) {
        delete(&fingerprint);
    }
}

fn delete(fingerprint: &str) {
    let path = format!("/1.0/images/{fingerprint}");
    Server::shared().done("DELETE", &path, &Value::Null);
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

/// Creates the two files of a small image; `salt` varies the fingerprint.
fn tiny_image(dir: &Path, salt: &str) {
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::fs::write(root.join("etc/salt"), salt).unwrap();
    let meta = "architecture: x86_64\ncreation_date: 1700000000\n\
                properties: {os: Debian, release: tiny, description: a test}\n";
    std::fs::write(dir.join("metadata.yaml"), meta).unwrap();
    run("tar", &["-cJf", "metadata.tar.xz", "metadata.yaml"], dir);
    let compress = ["-comp", "zstd", "-noappend", "-quiet"];
    let squash = [&["root", "rootfs.squashfs"], &compress[..]].concat();
    run("mksquashfs", &squash, dir);
}

#[tokio::test]
#[ignore = "needs Incus"]
async fn image_import_creates_alias() {
    lab::ready();
    let alias = "px-t-host-import";
    let client = client();
    sweep(alias);
    let dir = tempfile::tempdir().unwrap();
    tiny_image(dir.path(), &dir.path().to_string_lossy());
    let metadata = dir.path().join("metadata.tar.xz");
    let rootfs = dir.path().join("rootfs.squashfs");
    let imported = host::import(&client, &metadata, &rootfs, alias).await;
    let fingerprint = imported.unwrap();
    assert_eq!(target(alias).as_ref(), Some(&fingerprint));
    let image = Server::shared().get(&format!("/1.0/images/{fingerprint}"));
    assert_eq!(image["type"], "container");
    assert_eq!(image["public"], false);
    assert_eq!(image["properties"]["os"], "Debian");
    assert_eq!(image["properties"]["description"], "a test");

    // A second import of the same image is refused and changes nothing.
    let again = host::import(&client, &metadata, &rootfs, alias).await;
    assert!(matches!(again, Err(Error::Server { .. })), "{again:?}");
    assert_eq!(target(alias).as_ref(), Some(&fingerprint));

    delete(&fingerprint);
    assert_eq!(target(alias), None);
}

#[tokio::test]
#[ignore = "needs Incus"]
async fn invalid_image_import_leaves_nothing() {
    lab::ready();
    let alias = "px-t-host-rubbish";
    let client = client();
    sweep(alias);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rubbish");
    std::fs::write(&file, "no tarball").unwrap();
    let failed = host::import(&client, &file, &file, alias).await;
    assert!(matches!(failed, Err(Error::Server { .. })), "{failed:?}");
    assert_eq!(target(alias), None);
}

#[tokio::test]
#[ignore = "needs Incus"]
async fn second_setup_changes_nothing() {
    lab::ready();
    let mut options = options();
    let fallback = host::fallback_image(&client()).await.unwrap();
    options.image = fallback.expect("the test machine has an image built by setup");
    let mut events = Vec::new();
    let report = host::setup(&options, &mut |event| events.push(event)).await;
    let report = report.unwrap();
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
    let ids = [
        "access",
        "version",
        "extensions",
        "pool",
        "network",
        "image",
    ];
    for id in ids {
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
    let mut ids = plan.steps.iter().map(|step| step.id);
    assert!(ids.any(|id| id == host::StepId::Daemon), "{plan:?}");
}
