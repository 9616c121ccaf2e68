//! Tests of create, fork, restore, expiry and orphans on the fake backend.
//! Every call of a command fails once, with and without its effect.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::gateway::GatewaySpec;
use super::*;
use crate::egress::{self, Mode, Policy};
use crate::model::fake::{FakeBackend, IMAGE};
use crate::model::{self, Backend, Limits, Name, Properties};

const HOUR: Option<Duration> = Some(Duration::from_secs(3600));

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

async fn create_box(backend: &FakeBackend, cancel: &CancellationToken) -> Result<(), Error> {
    let request = PixelRequest {
        name: name("box"),
        source: PixelSource::Image(IMAGE.into()),
        limits: Limits::default(),
        policy: None,
        properties: Properties::new(),
    };
    let defaults = InstanceDefaults::for_tests();
    let created = defaults.create_pixel(backend, cancel, request, &|_| {});
    created.await.map(drop)
}

async fn fork_three(backend: &FakeBackend, prefix: &str) -> Result<(), Error> {
    let options = ForkOptions {
        from: "source".parse().unwrap(),
        names: CloneNames::Numbered {
            prefix: prefix.into(),
            count: 3,
        },
        limits: Limits::default(),
        properties: Properties::new(),
        network: InstanceDefaults::for_tests().network,
    };
    let cancel = CancellationToken::new();
    fork(backend, &cancel, options, &|_| {}, &|_| {}).await
}

/// The calls of a command: each verb with its number among equal verbs.
fn each_call(calls: &[String]) -> Vec<(&str, usize)> {
    let verbs = || calls.iter().filter_map(|line| line.split(' ').next());
    let number = |at: usize, verb| verbs().take(at + 1).filter(|it| *it == verb).count();
    let numbered = verbs()
        .enumerate()
        .map(|(at, verb)| (verb, number(at, verb)));
    numbered.collect()
}

#[tokio::test]
async fn failed_create_leaves_no_pixel_whichever_call_fails() {
    let cancel = CancellationToken::new();
    let healthy = FakeBackend::default();
    create_box(&healthy, &cancel).await.unwrap();
    assert_eq!(healthy.names(), ["box"]);
    let calls = healthy.calls();
    let calls = each_call(&calls);
    assert!(calls.len() > 2, "{calls:?}");
    for (call, n) in calls {
        for lose_answer in [false, true] {
            let backend = FakeBackend::default();
            match lose_answer {
                true => backend.lose_answer_at(call, n),
                false => backend.fail_at(call, n),
            }
            let error = create_box(&backend, &cancel).await.unwrap_err();
            assert_eq!(backend.names(), [""; 0], "{call} {n}: {error}");
            assert_eq!(error.leftovers, [""; 0], "{call} {n}");
        }
    }
}

#[tokio::test]
async fn create_with_used_name_keeps_existing_pixel() {
    let backend = FakeBackend::with_pixels(["box"]);
    let error = create_box(&backend, &CancellationToken::new()).await;
    let source = error.unwrap_err().source;
    assert!(matches!(source, model::Error::AlreadyExists(_)), "{source}");
    assert_eq!(backend.names(), ["box"]);
}

#[tokio::test]
async fn canceled_create_deletes_pixel_that_the_server_finishes_later() {
    let backend = FakeBackend::default();
    backend.stall_at("create ", 1);
    let cancel = CancellationToken::new();
    let canceled = async {
        while backend.calls().is_empty() {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(create_box(&backend, &cancel), canceled);
    let source = outcome.unwrap_err().source;
    assert!(matches!(source, model::Error::Cancelled), "{source}");
    assert_eq!(backend.names(), [""; 0]);
}

#[tokio::test]
async fn failed_fork_leaves_source_alone_whichever_call_fails() {
    let healthy = FakeBackend::with_pixels(["source"]);
    fork_three(&healthy, "clone").await.unwrap();
    assert_eq!(healthy.names(), ["clone-1", "clone-2", "clone-3", "source"]);
    assert_eq!(healthy.labels("source"), [""; 0]);
    let calls = healthy.calls();
    for (call, n) in each_call(&calls) {
        let backend = FakeBackend::with_pixels(["source"]);
        backend.fail_at(call, n);
        let outcome = fork_three(&backend, "clone").await;
        let Err(error) = outcome else {
            panic!("{call} {n} did not fail");
        };
        assert_eq!(backend.names(), ["source"], "{call} {n}: {error}");
        assert_eq!(backend.labels("source"), [""; 0], "{call} {n}: {error}");
    }
}

#[tokio::test]
async fn fork_skips_numbers_in_use_and_refuses_too_long_prefix() {
    let backend = FakeBackend::with_pixels(["a-2", "b-1", "source"]);
    fork_three(&backend, "a").await.unwrap();
    let names = ["a-1", "a-2", "a-3", "a-4", "b-1", "source"];
    assert_eq!(backend.names(), names);
    let error = fork_three(&backend, &"a".repeat(60)).await.unwrap_err();
    assert!(matches!(error.source, model::Error::Invalid(_)), "{error}");
    assert_eq!(backend.names(), names);
}

#[tokio::test]
async fn destroy_expired_deletes_expired_pixels_only() {
    let backend = FakeBackend::with_pixels(["expired", "later", "never"]);
    backend.edit("expired", |pixel| {
        let past = "2020-01-01T00:00:00Z".to_owned();
        pixel.properties.insert(expiry::KEY.into(), past);
    });
    expiry::set(&backend, &name("later"), HOUR).await.unwrap();
    let mut pixels = backend.list().await.unwrap();
    let outcomes = expiry::destroy_expired(&backend, &GatewaySpec::for_tests(), &mut pixels).await;
    assert_eq!(outcomes.len(), 1);
    assert_eq!(backend.names(), ["later", "never"]);
    assert_eq!(pixels.len(), 2);
}

#[tokio::test]
async fn restore_keeps_expiry_also_when_it_fails() {
    for fails in [false, true] {
        let backend = FakeBackend::with_pixels(["box"]);
        backend.add_checkpoint("box", "ready");
        expiry::set(&backend, &name("box"), HOUR).await.unwrap();
        let before = backend.property("box", expiry::KEY);
        if fails {
            backend.fail_at("restore ", 1);
        }
        let label = "ready".parse().unwrap();
        let gateway = GatewaySpec::for_tests();
        let outcome = restore(&backend, &gateway, &name("box"), &label, None).await;
        assert_eq!(outcome.is_err(), fails);
        assert_eq!(backend.property("box", expiry::KEY), before);
        assert!(before.is_some());
    }
}

/// Without access to its disk, the pixel would boot under the policy of the checkpoint.
#[tokio::test]
async fn restore_under_narrower_policy_needs_the_files_of_a_stopped_pixel() {
    let wide = Policy::new(Mode::Agent, []);
    let narrow = Policy::new(Mode::Allowlist, []);
    let narrower = |ours: &Policy, theirs: &Policy| ours.narrower(theirs, egress::presets());
    for hidden in [false, true] {
        let backend = FakeBackend::with_pixels(["box"]);
        let record = |policy: &Policy, state: &str| {
            let policy = policy.to_record();
            backend.edit("box", |pixel| {
                pixel.properties.insert(egress::KEY.into(), policy);
                pixel
                    .properties
                    .insert(guest_policy::KEY.into(), state.into());
            });
        };
        record(&wide, "wide");
        backend.add_checkpoint("box", "early");
        record(&narrow, "narrow");
        if hidden {
            backend.hide_stopped_files();
        }
        let (label, gateway) = ("early".parse().unwrap(), GatewaySpec::for_tests());
        backend.fail_at("start ", 1);
        let outcome = restore(&backend, &gateway, &name("box"), &label, Some(&narrower)).await;
        assert_eq!(
            matches!(outcome, Err(model::Error::Unsupported { .. })),
            hidden
        );
        assert_eq!(
            backend.property("box", egress::KEY),
            Some(narrow.to_record())
        );
        let state = backend.property("box", guest_policy::KEY);
        assert_eq!(state.as_deref() == Some("narrow"), hidden, "{state:?}");
        assert_ne!(state.as_deref(), Some("wide"));
    }
}

/// A creator whose process id does not exist.
fn exited_creator() -> Creator {
    let own = Creator::new().to_string();
    let mut fields: Vec<&str> = own.split(' ').collect();
    fields[2] = "4194304";
    fields.join(" ").parse().unwrap()
}

/// Sets the properties of a pixel whose creator exited while it applied the
/// plan.
fn mark_incomplete(backend: &FakeBackend, pixel: &str) {
    let mut properties = Properties::new();
    let creator = exited_creator();
    creator.insert_into(&mut properties);
    provisioning::insert_applying(&creator, &mut properties);
    backend.edit(pixel, |instance| instance.properties.extend(properties));
}

#[tokio::test]
async fn restored_pixel_is_complete_even_if_restore_was_killed() {
    for killed in [false, true] {
        let backend = FakeBackend::with_pixels(["box", "incomplete"]);
        mark_incomplete(&backend, "box");
        backend.add_checkpoint("box", "early");
        backend.edit("box", |pixel| {
            pixel.properties.remove(provisioning::APPLYING);
        });
        mark_incomplete(&backend, "incomplete");
        let (label, gateway) = ("early".parse().unwrap(), GatewaySpec::for_tests());
        if killed {
            backend.restore(&name("box"), &label).await.unwrap();
            assert!(backend.property("box", provisioning::APPLYING).is_some());
        } else {
            let outcome = restore(&backend, &gateway, &name("box"), &label, None).await;
            outcome.unwrap();
            assert_eq!(backend.property("box", provisioning::APPLYING), None);
        }
        let orphans = find_orphans(&backend, &gateway).await.unwrap();
        let name = "incomplete".into();
        assert_eq!(orphans, [Orphan::Pixel { name }], "{killed}");
    }
}

#[tokio::test]
async fn orphans_are_incomplete_pixels_of_exited_commands_only() {
    let backend = FakeBackend::with_pixels(["complete", "running", "orphan"]);
    for (pixel, creator) in [("running", Creator::new()), ("orphan", exited_creator())] {
        let mut properties = Properties::new();
        creator.insert_into(&mut properties);
        backend.edit(pixel, |instance| {
            instance.started_once = false;
            instance.properties.extend(properties);
        });
    }
    let spec = GatewaySpec::for_tests();
    let orphans = find_orphans(&backend, &spec).await.unwrap();
    let expected = Orphan::Pixel {
        name: "orphan".into(),
    };
    assert_eq!(orphans, [expected]);
    remove_orphan(&backend, &spec, &orphans[0]).await.unwrap();
    assert_eq!(backend.names(), ["complete", "running"]);
}
