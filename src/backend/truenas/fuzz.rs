//! Parses a TrueNAS server's messages, and the properties of pixels.

use std::collections::HashMap;

use serde_json::Value;
use tokio::sync::oneshot;

use super::api_version::Release;
use super::convert::Container;
use super::error::Failure;
use super::fault::RpcFault;
use super::messages::Meaning;
use super::{nic, properties, socket, ssh, wire};
use crate::fuzz::{fuzz, text};
use crate::model::{Name, Subject};

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
        let mut kinds = String::new();
        fn reads<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
            serde_json::from_str(text).ok()
        }
        for virt in reads::<Vec<wire::Virt>>(result.get()).into_iter().flatten() {
            let _ = (virt.address(), virt.usage());
            let name: Name = "a".parse().unwrap();
            kinds.push_str(
                Container::Virt(Box::new(virt))
                    .into_instance(name)
                    .status
                    .as_str(),
            );
        }
        for lxc in reads::<Vec<wire::Lxc>>(result.get()).into_iter().flatten() {
            let name: Name = "a".parse().unwrap();
            kinds.push_str(Container::Lxc(lxc).into_instance(name).status.as_str());
        }
        for snapshot in reads::<Vec<wire::Snapshot>>(result.get())
            .into_iter()
            .flatten()
        {
            let _ = (snapshot.order(), snapshot.number("used"));
            kinds.push('s');
        }
        let interfaces: Vec<wire::Interface> = reads(result.get()).unwrap_or_default();
        if let Some(summary) = reads::<wire::Summary>(result.get()) {
            let chosen = nic::choose(&super::NicOptions::default(), &interfaces, &summary);
            kinds.push_str(if chosen.is_ok() { "nic" } else { "no nic" });
        }
        let known = [
            reads::<wire::VirtConfig>(result.get()).is_some(),
            reads::<wire::Stat>(result.get()).is_some(),
            reads::<Vec<wire::CronJob>>(result.get()).is_some(),
            reads::<Vec<super::job_events::Job>>(result.get()).is_some(),
            reads::<Value>(result.get()).is_some(),
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

/// Properties roundtrip, and merging them again changes nothing.
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
