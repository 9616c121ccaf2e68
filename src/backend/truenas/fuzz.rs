//! Fuzz tests of a TrueNAS server's messages and of the properties of pixels.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::oneshot;

use super::api_version::Release;
use super::convert::Container;
use super::error::Failure;
use super::fault::RpcFault;
use super::messages::Meaning;
use super::{nic, properties, socket, ssh, wire};
use crate::fuzz::{fuzz, text};
use crate::model::Subject;

const WORDS: &[&str] = &[
    "\"id\":\"1\"",
    "\"result\":",
    "\"error\":{",
    "\"code\":-32001",
    "\"data\":{",
    "\"error\":2",
    "\"extra\":[[",
    "\"reason\":\"[ENOENT] ",
    "\"method\":\"collection_update\"",
    "\"params\":{",
    "\"collection\":\"core.get_jobs\"",
    "\"fields\":{",
    "\"state\":\"SUCCESS\"",
    "\"exc_info\":",
    "\"raw\":{",
    "\"counters\":{\"bytes_received\":",
    "\"environment\":{\"pixels__",
    "null",
    "[]",
];

#[test]
fn messages() {
    fuzz("truenas-messages", 6000, WORDS, |bytes| {
        let shared = socket::Shared::default();
        let (response, mut answer) = oneshot::channel();
        let waiting = socket::Pending {
            writes: false,
            response,
        };
        let mut pending = HashMap::from([("1".to_owned(), waiting)]);
        socket::dispatch(&text(bytes), &mut pending, &shared);
        let Ok(Ok(answer)) = answer.try_recv() else {
            return "none".to_owned();
        };
        let result = match answer {
            Ok(result) => result,
            Err(fault) => return kind_of_fault(fault),
        };
        fn read<T: DeserializeOwned>(text: &str) -> Option<T> {
            serde_json::from_str(text).ok()
        }
        fn read_all<T: DeserializeOwned>(text: &str) -> Vec<T> {
            read(text).unwrap_or_default()
        }
        let text = result.get();
        let mut kinds = String::new();
        let virts = read_all(text).into_iter().map(|virt: wire::Virt| {
            let _ = (virt.address(), virt.usage());
            Container::from(virt)
        });
        for container in virts.chain(read_all(text).into_iter().map(Container::Lxc)) {
            let instance = container.into_instance("a".parse().unwrap());
            kinds.push_str(instance.status.as_str());
        }
        for snapshot in read_all::<wire::Snapshot>(text) {
            let _ = (snapshot.order(), snapshot.number("used"));
            kinds.push('s');
        }
        if let Some(summary) = read(text) {
            let chosen = nic::choose(&super::NicOptions::default(), &read_all(text), &summary);
            kinds.push_str(if chosen.is_ok() { "nic" } else { "no nic" });
        }
        let known = [
            read::<wire::VirtConfig>(text).is_some(),
            read::<wire::Stat>(text).is_some(),
            read::<Vec<wire::CronJob>>(text).is_some(),
            read::<Vec<super::job_events::Job>>(text).is_some(),
            read::<Value>(text).is_some(),
        ];
        format!("{kinds} {known:?}")
    });
}

fn kind_of_fault(fault: RpcFault) -> String {
    let in_use = fault.means(Meaning::NameInUse);
    let error = Failure::Refused(fault).into_error_for(Subject::Network("a".into()));
    format!("{in_use} {:.20}", format!("{error:?}"))
}

#[test]
fn releases() {
    fuzz(
        "truenas-releases",
        20_000,
        &["TrueNAS-", "25.04", ".", "-RC.1"],
        |bytes| Release::parse(&text(bytes)).is_ok(),
    );
}

/// Written properties parse to equal properties. Merging twice is harmless.
#[test]
fn environments() {
    let words = ["pixels_", "pixels__at_", "/1", "=", "%00", "%C3", "\u{1}"];
    fuzz("truenas-environment", 2500, &words, |bytes| {
        let text = text(bytes);
        let pairs = text.split('\u{1}').filter_map(|pair| pair.split_once('='));
        let pairs = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut environment = pairs.collect();
        let read = properties::read(&environment);
        if properties::merge(&mut environment, &read).is_ok() {
            let mut reread = properties::read(&environment);
            reread.retain(|_, value| !value.is_empty());
            let mut before = read.clone();
            before.retain(|_, value| !value.is_empty());
            assert_eq!(reread, before);
        }
        let _ = properties::snapshot(&mut environment, "cp", &["cp"]);
        let stored = properties::at_checkpoint(&environment, "cp");
        assert_eq!(stored, Some(properties::read(&environment)));
        read.len()
    });
}

#[test]
fn known_hosts() {
    let words = ["px-a/1", "@", " ssh-ed25519 AAAA", "\n"];
    fuzz("known-hosts", 10_000, &words, |bytes| {
        let lines = ssh::known_hosts::parse(&text(bytes));
        let written: String = lines
            .iter()
            .map(|(name, key)| format!("{name} {key}\n"))
            .collect();
        assert_eq!(ssh::known_hosts::parse(&written), lines);
        lines.len().min(4)
    });
}
