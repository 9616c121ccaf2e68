//! The `[mcp.bases]` table: template pixels, each built from an image or another
//! base. Every base has exactly one parent, and the parents form no cycle.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::key::Key;
use super::layer::Layers;
use super::origin::Result;
use super::setting::Setting;
use super::spanned_toml::Node;
use super::value_kind::ValueKind;
use crate::egress::Mode;
use crate::model::Name;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    pub parent: Parent,
    /// `None` if the base is an unchanged copy of its parent.
    pub setup_script: Option<Script>,
    /// One line for listings. May be empty.
    pub description: String,
    /// Egress mode while the setup script runs.
    pub egress: Mode,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parent {
    Image(String),
    /// The name of another base.
    Base(String),
}

/// The setup script of a base. The file may not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// A script of pixels, such as `bases/dev.sh` for `mcp:bases/dev.sh`.
    BuiltIn(String),
    /// A file on this machine.
    File(PathBuf),
}

type Bases = BTreeMap<String, Base>;

impl Setting for Bases {
    const KEY: Key = Key::new(ValueKind::Bases);

    fn read(table: &Node, layers: &mut Layers<'_>) -> Result<Self> {
        let prefix = layers.read::<String>("mcp.base_prefix")?;
        let mut bases = Self::new();
        for (name, node) in &table.children {
            if let Err(invalid) = format!("{prefix}{name}").parse::<Name>() {
                return Err(node.invalid(format!("cannot name a pixel: {}", invalid.rule)));
            }
            bases.insert(name.clone(), Base::read(node, layers)?);
        }
        for (name, node) in &table.children {
            check_parents(name, node, &bases)?;
        }
        Ok(bases)
    }
}

impl Base {
    fn read(node: &Node, layers: &mut Layers<'_>) -> Result<Self> {
        if !node.value.is_table() {
            return Err(node.wrong_type("a table"));
        }
        layers.warn_unknown_fields(node, "parent_image from setup_script description egress");
        let invalid = |problem| Err(node.invalid(problem));
        let description: Option<String> = layers.field(node, "description")?;
        let egress: Option<Mode> = layers.field(node, "egress")?;
        let image: Option<String> = layers.field(node, "parent_image")?;
        let parent = match (image, layers.field(node, "from")?) {
            (Some(image), None) => Parent::Image(image),
            (None, Some(base)) => Parent::Base(base),
            (Some(_), Some(_)) => return invalid("has both `parent_image` and `from`; remove one"),
            (None, None) => return invalid("has neither `parent_image` nor `from`; set one"),
        };
        Ok(Self {
            parent,
            setup_script: layers.field(node, "setup_script")?,
            description: description.unwrap_or_default(),
            egress: egress.unwrap_or(Mode::Agent),
        })
    }
}

impl Setting for Script {
    const KEY: Key = PathBuf::KEY;

    fn read(node: &Node, layers: &mut Layers<'_>) -> Result<Self> {
        match String::read(node, layers)?.strip_prefix("mcp:") {
            Some(built_in) => Ok(Self::BuiltIn(built_in.to_owned())),
            None => PathBuf::read(node, layers).map(Self::File),
        }
    }
}

/// Checks that the chain of `from` values ends at an image.
fn check_parents(name: &str, node: &Node, bases: &Bases) -> Result<()> {
    let mut chain = vec![name];
    let mut base = bases.get(name);
    while let Some(Parent::Base(parent)) = base.map(|base| &base.parent) {
        let is_cycle = chain.contains(&parent.as_str());
        chain.push(parent);
        if is_cycle {
            return Err(node.invalid(format!("is in a cycle: {}", chain.join(" from "))));
        }
        base = bases.get(parent);
        if base.is_none() {
            let known = Vec::from_iter(bases.keys().cloned()).join(", ");
            return Err(node.invalid(format!("is from unknown base {parent:?}; known: {known}")));
        }
    }
    Ok(())
}
