//! What `prune` says of what killed commands left.

use super::env::TestEnv;

/// Such as `pixel NAME`, `gateway NAME` or `checkpoint LABEL of NAME`, sorted.
#[track_caller]
pub fn told(env: &TestEnv, args: &[&str]) -> Vec<String> {
    let told = env.pixels(args).json();
    let mut names: Vec<String> = told
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
