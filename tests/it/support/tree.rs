//! The commands of the binary, parsed from its help.

use super::env::TestEnv;

/// `pixels` and all its subcommands, each with its parent commands.
pub fn commands() -> Vec<String> {
    let env = TestEnv::bare();
    let mut all = vec!["pixels".to_owned()];
    let mut next = 0;
    while next < all.len() {
        let words: Vec<&str> = all[next].split(' ').skip(1).chain(["-h"]).collect();
        let help = env.pixels(&words).ok().stdout;
        let subcommands: Vec<String> = listed(&help)
            .iter()
            .map(|name| format!("{} {name}", all[next]))
            .collect();
        all.extend(subcommands);
        next += 1;
    }
    assert!(all.iter().any(|one| one == "pixels network gateway status"));
    all
}

/// The commands that a help page lists, in one or several groups.
pub fn listed(help: &str) -> Vec<String> {
    help.lines()
        .take_while(|line| !matches!(*line, "Arguments:" | "Options:"))
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}
