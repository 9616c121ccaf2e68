//! The `[mcp.bases]` table: prepared pixels, each made from an image or from
//! another base. What is read here has exactly one parent each and no cycles.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Value;

use super::error::{ConfigError, Warning};
use super::kind::Kind;
use super::layer::{Item, Merged};
use super::paths::Env;
use super::resolve;
use super::settings::EgressMode;
use crate::model::Name;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub parent: Parent,
    /// `None`: the base is its parent under another name.
    pub setup_script: Option<Script>,
    /// One line for listings; may be empty.
    pub description: String,
    /// What its script may reach.
    pub egress: EgressMode,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    Image(String),
    /// The name of another base.
    Base(String),
}

/// Not checked to exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// One that comes with pixels, such as `bases/dev.sh`, written `mcp:bases/dev.sh`.
    BuiltIn(String),
    /// A file on the machine pixels runs on.
    File(PathBuf),
}

const FIELDS: &[&str] = &[
    "parent_image",
    "from",
    "setup_script",
    "description",
    "egress",
];

pub(super) fn read(
    merged: &Merged,
    prefix: &str,
    env: &Env<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<BTreeMap<String, Base>, ConfigError> {
    let mut bases = BTreeMap::new();
    for (name, item) in merged.entries("mcp.bases") {
        if let Err(invalid) = format!("{prefix}{name}").parse::<Name>() {
            let reason = format!("cannot name a pixel: {}", invalid.rule);
            return Err(wrong(name, item, reason));
        }
        bases.insert(name.to_owned(), base(name, item, env, warnings)?);
    }
    for (name, item) in merged.entries("mcp.bases") {
        check_chain(name, item, &bases)?;
    }
    Ok(bases)
}

fn wrong(name: &str, item: &Item, reason: impl Into<String>) -> ConfigError {
    ConfigError::Entry {
        place: item.place.clone(),
        key: format!("mcp.bases.{name}"),
        reason: reason.into(),
    }
}

fn base(
    name: &str,
    item: &Item,
    env: &Env<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Base, ConfigError> {
    if !item.node.value.is_table() {
        let reason = format!(
            "is of type {}, but must be a table",
            item.node.value.type_str()
        );
        return Err(wrong(name, item, reason));
    }
    let key = format!("mcp.bases.{name}");
    warnings.extend(item.unknown_fields(&key, FIELDS));
    let text = |field: &str| match item.node.children.get(field) {
        None => Ok(None),
        Some(node) => match &node.value {
            Value::String(text) if text.is_empty() => Ok(None),
            Value::String(text) if !text.contains('\0') => Ok(Some(text.clone())),
            other => Err(ConfigError::Value {
                place: item.field_place(node),
                key: format!("{key}.{field}"),
                value: other.to_string(),
                allowed: "a text".into(),
            }),
        },
    };
    let parent = match (text("parent_image")?, text("from")?) {
        (Some(image), None) => Parent::Image(image),
        (None, Some(base)) => Parent::Base(base),
        (Some(_), Some(_)) => {
            let reason = "has both `parent_image` and `from`, but must have exactly one of them";
            return Err(wrong(name, item, reason));
        }
        (None, None) => {
            let reason = "has neither `parent_image` nor `from`, but must have exactly one of them";
            return Err(wrong(name, item, reason));
        }
    };
    let setup_script = match (
        text("setup_script")?,
        item.node.children.get("setup_script"),
    ) {
        (Some(script), Some(node)) => Some(match script.strip_prefix("mcp:") {
            Some(built_in) => Script::BuiltIn(built_in.to_owned()),
            None => {
                let key = format!("{key}.setup_script");
                let place = item.field_place(node);
                Script::File(resolve::path(&key, &script, place, env, warnings)?)
            }
        }),
        _ => None,
    };
    let egress = match (text("egress")?, item.node.children.get("egress")) {
        (Some(word), Some(node)) => {
            EgressMode::from_name(&word).ok_or_else(|| ConfigError::Value {
                place: item.field_place(node),
                key: format!("{key}.egress"),
                value: format!("{word:?}"),
                allowed: Kind::Choice(EgressMode::NAMES).allowed(),
            })?
        }
        _ => EgressMode::Agent,
    };
    Ok(Base {
        parent,
        setup_script,
        description: text("description")?.unwrap_or_default(),
        egress,
    })
}

/// Follows `from` to an image.
fn check_chain(name: &str, item: &Item, bases: &BTreeMap<String, Base>) -> Result<(), ConfigError> {
    let mut chain = vec![name];
    let mut at = name;
    while let Some(Base {
        parent: Parent::Base(parent),
        ..
    }) = bases.get(at)
    {
        let seen = chain.contains(&parent.as_str());
        chain.push(parent);
        if seen {
            let reason = format!("leads in a circle: {}", chain.join(" from "));
            return Err(wrong(name, item, reason));
        }
        if !bases.contains_key(parent) {
            let known: Vec<&str> = bases.keys().map(String::as_str).collect();
            let reason = format!(
                "is made from unknown base {parent:?}; known: {}",
                known.join(", ")
            );
            return Err(wrong(name, item, reason));
        }
        at = parent;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_support::{load, problem};

    #[test]
    fn the_built_in_ones_are_there() {
        let bases = load("", &[]).settings.mcp.bases;
        let names: Vec<_> = bases.keys().map(String::as_str).collect();
        assert_eq!(names, ["dev", "node", "python"]);
        assert_eq!(bases["dev"].parent, Parent::Image("ubuntu/24.04".into()));
        assert_eq!(bases["node"].parent, Parent::Base("dev".into()));
        let script = Script::BuiltIn("bases/python.sh".into());
        assert_eq!(bases["python"].setup_script, Some(script));
        assert!(bases.values().all(|base| !base.description.is_empty()));
    }

    #[test]
    fn an_entry_of_the_user_replaces_a_built_in_whole() {
        let text = "[mcp.bases.python]\nparent_image = \"debian/13\"\n\
                    [mcp.bases.rust]\nfrom = \"dev\"\nsetup_script = \"~/rust.sh\"\n";
        let loaded = load(text, &[("HOME", "/h")]);
        let bases = &loaded.settings.mcp.bases;
        assert_eq!(
            bases["python"],
            Base {
                parent: Parent::Image("debian/13".into()),
                setup_script: None,
                description: String::new(),
                egress: EgressMode::Agent,
            }
        );
        assert_eq!(
            bases["rust"].setup_script,
            Some(Script::File("/h/rust.sh".into()))
        );
        assert_eq!(bases.len(), 4);
        let origin = |key| loaded.origins.get(key).unwrap().origin.to_string();
        assert_eq!(origin("mcp.bases.dev"), "default");
        assert!(origin("mcp.bases.rust").starts_with("file "));
    }

    #[test]
    fn senseless_bases_are_errors_that_name_them() {
        for (text, expected) in [
            (
                "[mcp.bases.x]\n",
                ":1: mcp.bases.x has neither `parent_image` nor `from`",
            ),
            (
                "[mcp.bases.x]\nfrom = \"\"\n",
                ":1: mcp.bases.x has neither",
            ),
            (
                "[mcp.bases.x]\nfrom = \"dev\"\nparent_image = \"i\"\n",
                ":1: mcp.bases.x has both `parent_image` and `from`",
            ),
            (
                "[mcp.bases.x]\nfrom = \"dve\"\n",
                ":1: mcp.bases.x is made from unknown base \"dve\"; known: dev, node, python, x",
            ),
            (
                "[mcp.bases.x]\nfrom = \"x\"\n",
                ":1: mcp.bases.x leads in a circle: x from x",
            ),
            (
                "[mcp.bases.dev]\nfrom = \"python\"\n",
                ":1: mcp.bases.dev leads in a circle: dev from python from dev",
            ),
            (
                "[mcp.bases]\nx = 1\n",
                ":2: mcp.bases.x is of type integer, but must be a table",
            ),
            (
                "[mcp.bases.x]\nfrom = \"dev\"\ndescription = 1\n",
                ":3: mcp.bases.x.description is 1, but must be a text",
            ),
            (
                "[mcp.bases.x]\nfrom = \"dev\"\negress = \"open\"\n",
                ":3: mcp.bases.x.egress is \"open\", but must be \"unrestricted\" or",
            ),
            (
                "[mcp.bases.X_y]\nfrom = \"dev\"\n",
                ":1: mcp.bases.X_y cannot name a pixel: only a-z",
            ),
        ] {
            let error = problem(text, &[]);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn unknown_fields_are_named() {
        let loaded = load("[mcp.bases.x]\nfrom = \"dev\"\nsetup = \"/s\"\n", &[]);
        let said = loaded.warnings[0].to_string();
        assert!(
            said.contains(":3: unknown key mcp.bases.x.setup is ignored"),
            "{said}"
        );
    }
}
