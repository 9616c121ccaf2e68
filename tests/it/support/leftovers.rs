//! The rows of `prune` for leftovers of killed commands.

use super::env::TestEnv;

/// Such as `pixel NAME`, `gateway NAME` or `checkpoint LABEL of NAME`, sorted.
#[track_caller]
pub fn reported(env: &TestEnv, args: &[&str]) -> Vec<String> {
    let reported = env.pixels(args).json();
    let mut names: Vec<String> = reported
        .as_array()
        .unwrap()
        .iter()
        .map(|line| {
            let name = line["name"].as_str().unwrap();
            match line["kind"].as_str() {
                Some(kind @ ("pixel" | "gateway")) => format!("{kind} {name}"),
                _ => format!("checkpoint {} of {name}", line["label"].as_str().unwrap()),
            }
        })
        .collect();
    names.sort();
    names
}
