//! The recipe of a base: its parent, policy and setup script. A base is
//! outdated if the fingerprint of its recipe has changed since the build.

use super::{Error, Result};
use crate::config::{Base, Parent, Script};
use crate::model::{hex, sha256};

const BUILT_IN: &[(&str, &str)] = &[
    ("bases/dev.sh", include_str!("guest/dev.sh")),
    ("bases/node.sh", include_str!("guest/node.sh")),
    ("bases/python.sh", include_str!("guest/python.sh")),
];

/// Returns the setup script of a base, or `None` if the base has no script.
pub fn setup_script(name: &str, base: &Base) -> Result<Option<Vec<u8>>> {
    match &base.setup_script {
        None => Ok(None),
        Some(Script::BuiltIn(builtin)) => BUILT_IN
            .iter()
            .find(|(known, _)| known == builtin)
            .map(|(_, text)| Some(text.as_bytes().to_vec()))
            .ok_or_else(|| Error::UnknownScript {
                base: name.to_owned(),
                script: builtin.clone(),
            }),
        Some(Script::File(path)) => {
            std::fs::read(path)
                .map(Some)
                .map_err(|source| Error::ReadScript {
                    base: name.to_owned(),
                    path: path.clone(),
                    source,
                })
        }
    }
}

/// Returns a hash of parent, policy mode and setup script.
pub fn fingerprint(base: &Base, script: Option<&[u8]>) -> String {
    let [kind, parent] = match &base.parent {
        Parent::Image(image) => ["image", image],
        Parent::Base(parent) => ["base", parent],
    };
    let parts = [kind, "\0", parent, "\0", base.egress.as_str(), "\0"].map(str::as_bytes);
    let parts = parts.into_iter().chain(script);
    hex(&sha256(parts)[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Mode;

    fn base(setup_script: Option<Script>) -> Base {
        Base {
            parent: Parent::Image("a".into()),
            setup_script,
            description: String::new(),
            egress: Mode::Agent,
        }
    }

    #[test]
    fn fingerprint_covers_parent_policy_and_script() {
        let mut base = base(None);
        let mut seen = vec![
            fingerprint(&base, None),
            fingerprint(&base, Some(b"x".as_slice())),
        ];
        base.egress = Mode::Allowlist;
        seen.push(fingerprint(&base, None));
        base.parent = Parent::Base("a".into());
        seen.push(fingerprint(&base, None));
        base.description = "not part of the recipe".into();
        assert_eq!(seen.last(), Some(&fingerprint(&base, None)));
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn built_in_scripts_exist_and_unknown_one_fails() {
        let base = |script: &str| base(Some(Script::BuiltIn(script.into())));
        for (name, _) in BUILT_IN {
            let script = setup_script("x", &base(name)).unwrap().unwrap();
            assert!(script.starts_with(b"#!/bin/sh\n"));
        }
        let error = setup_script("x", &base("bases/rust.sh")).unwrap_err();
        assert!(error.to_string().contains("bases/rust.sh"), "{error}");
    }
}
