//! The commands of the binary, read from its own help.

use super::env::TestEnv;

/// `pixels`, and every command below it, as they are typed.
pub fn commands() -> Vec<String> {
    let env = TestEnv::bare();
    let mut all = vec!["pixels".to_owned()];
    let mut next = 0;
    while next < all.len() {
        let words: Vec<&str> = all[next].split(' ').skip(1).chain(["-h"]).collect();
        let help = env.pixels(&words).ok().stdout;
        let found: Vec<String> = help
            .lines()
            .skip_while(|line| *line != "Commands:")
            .skip(1)
            .take_while(|line| !line.is_empty())
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| *name != "help")
            .map(|name| format!("{} {name}", all[next]))
            .collect();
        all.extend(found);
        next += 1;
    }
    assert!(all.iter().any(|one| one == "pixels network gateway status"));
    all
}
