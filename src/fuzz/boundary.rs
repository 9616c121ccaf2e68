//! Fuzz tests of names, labels, durations and sizes from users and servers.

use std::time::Duration;

use super::{fuzz, text};
use crate::model::{CloneSource, Label, Name, parse_duration, parse_memory};

#[test]
fn names() {
    let words = ["px-", "px-gateway", "px-tmp-", "gateway", ":", "-", "."];
    fuzz("names", 20_000, &words, |bytes| {
        let text = text(bytes);
        let name = text.parse::<Name>().ok();
        if let Some(name) = &name {
            assert_eq!(name.as_str().parse().as_ref(), Ok(name));
            assert_eq!(Name::from_instance(&name.instance()).as_ref(), Some(name));
            assert!(name.as_str().len() <= 60 && name.as_str() != "gateway");
        }
        let label = text.parse::<Label>().ok();
        if let Some(label) = &label {
            assert_eq!(label.as_str(), text);
            assert!(!label.as_str().contains(['/', ':', '@']));
        }
        let origin = text.parse::<CloneSource>().ok();
        if let Some(origin) = &origin {
            assert_eq!(origin.to_string().parse().as_ref(), Ok(origin));
        }
        (name.is_some(), label.is_some(), origin.is_some())
    });
}

#[test]
fn amounts() {
    let words = [
        "ns", "us", "\u{b5}s", "ms", "s", "m", "h", ".", "MiB", "GiB",
    ];
    fuzz("amounts", 20_000, &words, |bytes| {
        let text = text(bytes);
        let duration = parse_duration(&text);
        if let Some(duration) = duration {
            assert!(duration > Duration::ZERO);
            let again = format!("{}ns", duration.as_nanos());
            assert_eq!(parse_duration(&again), Some(duration));
        }
        let memory = parse_memory(&text).ok();
        if let Some(memory) = memory {
            assert!(memory > 0 && text.bytes().all(|b| b.is_ascii_alphanumeric()));
        }
        (duration.is_some(), memory.is_some())
    });
}
