//! In which order bases are built.

use std::collections::BTreeMap;

use crate::config::{Base, Parent};

/// The bases that `target` is made from, the outermost first, and `target`
/// itself at the end. The settings have no circles; one that had would end
/// where it closes.
pub fn build_order<'a>(bases: &'a BTreeMap<String, Base>, target: &'a str) -> Vec<&'a str> {
    let mut chain = vec![target];
    let mut at = target;
    while let Some(Base {
        parent: Parent::Base(parent),
        ..
    }) = bases.get(at)
    {
        if chain.contains(&parent.as_str()) {
            break;
        }
        chain.push(parent);
        at = parent;
    }
    chain.reverse();
    chain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EgressMode;

    #[test]
    fn parents_come_first_and_siblings_not_at_all() {
        let of = |parent| Base {
            parent,
            setup_script: None,
            description: String::new(),
            egress: EgressMode::Agent,
        };
        let from = |name: &str| of(Parent::Base(name.into()));
        let bases = BTreeMap::from([
            ("dev".to_owned(), of(Parent::Image("i".into()))),
            ("python".to_owned(), from("dev")),
            ("node".to_owned(), from("dev")),
            ("ml".to_owned(), from("python")),
            ("a".to_owned(), from("b")),
            ("b".to_owned(), from("a")),
        ]);
        assert_eq!(build_order(&bases, "ml"), ["dev", "python", "ml"]);
        assert_eq!(build_order(&bases, "dev"), ["dev"]);
        assert_eq!(build_order(&bases, "a"), ["b", "a"]);
    }
}
