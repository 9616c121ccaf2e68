//! Create, fork, restore, expiry and orphans, on the in-memory backend: every
//! call of a command is made to fail once, in two ways.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::gateway::{DEFAULT_BRIDGE, GatewaySpec};
use super::*;
use crate::model::fake::FakeBackend;
use crate::model::{Backend, Limits, Name, Properties};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn external() -> Network {
    Network::External(GuestPolicy::default())
}

fn gateway_spec() -> GatewaySpec {
    GatewaySpec {
        name: Name::gateway(None),
        bridge: DEFAULT_BRIDGE.into(),
        subnet: "10.98.0.0/24".parse().unwrap(),
        any_subnet: false,
        dns: Vec::new(),
        built_image_prefix: String::new(),
        image: String::new(),
        learned: None,
    }
}

async fn create_box(backend: &FakeBackend) -> Result<(), Error> {
    let options = CreateOptions {
        name: name("box"),
        image: crate::model::fake::IMAGE.into(),
        limits: Limits::default(),
        properties: Properties::new(),
        provision: None,
        network: external(),
    };
    create(backend, &CancellationToken::new(), options, &|_| {}).await
}

async fn fork_three(backend: &FakeBackend) -> Result<(), Error> {
    let options = ForkOptions {
        from: "source".parse().unwrap(),
        names: CloneNames::Numbered {
            prefix: "clone".into(),
            count: 3,
        },
        limits: Limits::default(),
        properties: Properties::new(),
        network: external(),
    };
    fork(
        backend,
        &CancellationToken::new(),
        options,
        &|_| {},
        &|_| {},
    )
    .await
}

/// Each call of a command, as its verb and its number among calls of that verb.
fn each_call(calls: &[String]) -> Vec<(&str, usize)> {
    let verbs: Vec<&str> = calls
        .iter()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    (0..verbs.len())
        .map(|at| {
            (
                verbs[at],
                verbs[..=at]
                    .iter()
                    .filter(|verb| **verb == verbs[at])
                    .count(),
            )
        })
        .collect()
}

#[tokio::test]
async fn failed_create_leaves_no_pixel_whichever_call_fails() {
    let healthy = FakeBackend::new();
    create_box(&healthy).await.unwrap();
    assert_eq!(healthy.names(), ["box"]);
    let calls = healthy.calls();
    let calls = each_call(&calls);
    assert!(calls.len() > 2, "{calls:?}");
    for (call, n) in calls {
        for lose_answer in [false, true] {
            let backend = FakeBackend::new();
            match lose_answer {
                true => backend.lose_answer_at(call, n),
                false => backend.fail_at(call, n),
            }
            let error = create_box(&backend).await.unwrap_err();
            assert_eq!(backend.names(), [""; 0], "{call} {n}: {error}");
            assert_eq!(error.leftovers, [""; 0], "{call} {n}");
        }
    }
}

#[tokio::test]
async fn create_with_used_name_keeps_existing_pixel() {
    let backend = FakeBackend::new();
    backend.add("box");
    let error = create_box(&backend).await.unwrap_err();
    assert!(
        matches!(error.source, model::Error::AlreadyExists(_)),
        "{error}"
    );
    assert_eq!(backend.names(), ["box"]);
}

#[tokio::test]
async fn canceled_create_deletes_pixel_that_the_server_finishes_later() {
    let backend = FakeBackend::new();
    backend.stall_at("create ", 1);
    let cancel = CancellationToken::new();
    let (trigger, waiting) = (cancel.clone(), backend.clone());
    let canceled = async {
        while waiting.calls().is_empty() {
            tokio::task::yield_now().await;
        }
        trigger.cancel();
    };
    let options = CreateOptions {
        name: name("box"),
        image: crate::model::fake::IMAGE.into(),
        limits: Limits::default(),
        properties: Properties::new(),
        provision: None,
        network: external(),
    };
    let (outcome, ()) = tokio::join!(create(&backend, &cancel, options, &|_| {}), canceled);
    assert!(matches!(
        outcome.unwrap_err().source,
        model::Error::Cancelled
    ));
    assert_eq!(backend.names(), [""; 0]);
}

#[tokio::test]
async fn failed_fork_leaves_source_alone_whichever_call_fails() {
    let healthy = FakeBackend::new();
    healthy.add("source");
    fork_three(&healthy).await.unwrap();
    assert_eq!(healthy.names(), ["clone-1", "clone-2", "clone-3", "source"]);
    assert_eq!(healthy.labels("source"), [""; 0]);
    let calls = healthy.calls();
    for (call, n) in each_call(&calls) {
        let backend = FakeBackend::new();
        backend.add("source");
        backend.fail_at(call, n);
        let outcome = fork_three(&backend).await;
        let Err(error) = outcome else {
            panic!("{call} {n} did not fail");
        };
        assert_eq!(backend.names(), ["source"], "{call} {n}: {error}");
        assert_eq!(backend.labels("source"), [""; 0], "{call} {n}: {error}");
    }
}

#[tokio::test]
async fn destroy_expired_deletes_expired_pixels_only() {
    let backend = FakeBackend::new();
    ["expired", "later", "never"]
        .iter()
        .for_each(|pixel| backend.add(pixel));
    backend.edit("expired", |pixel| {
        let past = "2020-01-01T00:00:00Z".to_owned();
        pixel.properties.insert(expiry::KEY.into(), past);
    });
    let hour = Some(Duration::from_secs(3600));
    expiry::set(&backend, &name("later"), hour).await.unwrap();
    let mut pixels = backend.list().await.unwrap();
    let outcomes = expiry::destroy_expired(&backend, &gateway_spec(), &mut pixels).await;
    assert_eq!(outcomes.len(), 1);
    assert_eq!(backend.names(), ["later", "never"]);
    assert_eq!(pixels.len(), 2);
}

#[tokio::test]
async fn restore_keeps_expiry_also_when_it_fails() {
    for fails in [false, true] {
        let backend = FakeBackend::new();
        backend.add("box");
        backend.add_checkpoint("box", "ready");
        let hour = Some(Duration::from_secs(3600));
        expiry::set(&backend, &name("box"), hour).await.unwrap();
        let before = backend.property("box", expiry::KEY);
        if fails {
            backend.fail_at("restore ", 1);
        }
        let label = "ready".parse().unwrap();
        let outcome = restore(&backend, &gateway_spec(), &name("box"), &label).await;
        assert_eq!(outcome.is_err(), fails);
        assert_eq!(backend.property("box", expiry::KEY), before);
        assert!(before.is_some());
    }
}

#[tokio::test]
async fn orphans_are_incomplete_pixels_of_exited_commands_only() {
    let backend = FakeBackend::new();
    ["complete", "running", "orphan"]
        .iter()
        .for_each(|pixel| backend.add(pixel));
    let creator = Creator::new();
    let own = creator.to_string();
    // The same machine and boot, and a process id that does not exist.
    let mut fields: Vec<&str> = own.split(' ').collect();
    fields[2] = "4194304";
    for (pixel, creator) in [("running", own.clone()), ("orphan", fields.join(" "))] {
        let mut properties = Properties::new();
        creator
            .parse::<Creator>()
            .unwrap()
            .insert_into(&mut properties);
        backend.edit(pixel, |instance| {
            instance.started_once = false;
            instance.properties.extend(properties);
        });
    }
    let spec = gateway_spec();
    let orphans = find_orphans(&backend, &spec).await.unwrap();
    let expected = Orphan::Pixel {
        name: "orphan".into(),
    };
    assert_eq!(orphans, [expected]);
    remove_orphan(&backend, &spec, &orphans[0]).await.unwrap();
    assert_eq!(backend.names(), ["complete", "running"]);
}
