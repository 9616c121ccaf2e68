//! The order in which bases are built.

use std::collections::BTreeMap;

use crate::config::{Base, Parent};

/// `target` and the bases it derives from, outermost parent first. The settings
/// reject cycles; in a cycle, each base is listed once.
pub fn build_order<'a>(bases: &'a BTreeMap<String, Base>, target: &'a str) -> Vec<&'a str> {
    let mut chain = vec![target];
    let mut current = target;
    while let Some(Base {
        parent: Parent::Base(parent),
        ..
    }) = bases.get(current)
    {
        if chain.contains(&parent.as_str()) {
            break;
        }
        chain.push(parent);
        current = parent;
    }
    chain.reverse();
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Mode;

    #[test]
    fn build_order_has_parents_first_and_no_siblings() {
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
        assert_eq!(build_order(&bases, "ml"), ["dev", "python", "ml"]);
        assert_eq!(build_order(&bases, "dev"), ["dev"]);
        assert_eq!(build_order(&bases, "a"), ["b", "a"]);
    }
}
