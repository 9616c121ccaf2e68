//! The order in which bases are built.

use std::collections::BTreeMap;

use crate::config::{Base, Parent};

/// Returns the parents of `target`, outermost first. The settings reject
/// cycles; in a cycle, each base is listed once.
pub fn parents_of<'a>(bases: &'a BTreeMap<String, Base>, target: &'a str) -> Vec<&'a str> {
    let mut parents = Vec::new();
    let mut current = target;
    while let Some(Base {
        parent: Parent::Base(parent),
        ..
    }) = bases.get(current)
        && parent != target
        && !parents.contains(&parent.as_str())
    {
        parents.push(parent.as_str());
        current = parent;
    }
    parents.reverse();
    parents
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Mode;

    #[test]
    fn parents_are_outermost_first_without_siblings() {
        let base = |parent| Base {
            parent,
            setup_script: None,
            description: String::new(),
            egress: Mode::Agent,
        };
        let derived = |parent: &str| base(Parent::Base(parent.into()));
        let bases = BTreeMap::from([
            ("dev".to_owned(), base(Parent::Image("i".into()))),
            ("python".to_owned(), derived("dev")),
            ("node".to_owned(), derived("dev")),
            ("ml".to_owned(), derived("python")),
            ("a".to_owned(), derived("b")),
            ("b".to_owned(), derived("a")),
        ]);
        assert_eq!(parents_of(&bases, "ml"), ["dev", "python"]);
        assert_eq!(parents_of(&bases, "dev"), [""; 0]);
        assert_eq!(parents_of(&bases, "a"), ["b"]);
    }
}
