//! Types of settings: accepted values, and conversion from TOML.

use std::path::PathBuf;
use std::time::Duration;

use toml::{Table, Value};

use super::key::{Key, is_empty};
use super::layer::Layers;
use super::origin::{ConfigError, Origin, Result};
use super::spanned_toml::Node;
use super::value_kind::{self, ValueKind};
use crate::model::parse_duration;
use crate::secret::Secret;
use crate::user_dirs::expand_home;

/// The type of a value in the settings, or a section of values.
pub(super) trait Setting: Sized {
    /// Properties of keys of this type. `declare` adds name and variable.
    const KEY: Key;

    /// Adds the key, completed by `row`, or all keys of a section.
    fn declare(row: &dyn Fn(Key) -> Key, keys: &mut Vec<Key>) {
        keys.push(row(Self::KEY));
    }

    /// Converts a value that [`Key::check`] has accepted.
    fn read(node: &Node, layers: &mut Layers<'_>) -> Result<Self>;
}

macro_rules! setting {
    ($($type:ty: $key:expr, $convert:expr;)*) => {$(
        impl $crate::config::setting::Setting for $type {
            const KEY: Key = $key;

            fn read(node: &Node, _: &mut Layers<'_>) -> $crate::config::origin::Result<Self> {
                let convert: fn(&toml::Value) -> Option<Self> = $convert;
                convert(&node.value).ok_or_else(|| node.invalid("has the value of another type"))
            }
        }
    )*};
}
pub(super) use setting;

setting! {
    bool: Key::new(ValueKind::Bool), Value::as_bool;
    u16: Key::new(ValueKind::Integer(0, u16::MAX as i64, "")), |value| value.as_integer()?.try_into().ok();
    u64: Key::new(ValueKind::Integer(0, i64::MAX, "")), |value| value.as_integer()?.try_into().ok();
    String: Key::new(value_kind::NON_EMPTY), |value| value.as_str().map(str::to_owned);
    Secret: Key::new(ValueKind::Secret), |value| value.as_str().map(Secret::new);
    Duration: Key::new(value_kind::DURATION), |value| parse_duration(value.as_str()?);
}

/// `""` and 0 mean `None`.
impl<T: Setting> Setting for Option<T> {
    const KEY: Key = Key {
        optional: true,
        ..T::KEY
    };

    fn read(node: &Node, layers: &mut Layers<'_>) -> Result<Self> {
        if is_empty(&node.value) {
            return Ok(None);
        }
        match T::read(node, layers) {
            // The path is a default: only features that need it fail.
            Err(ConfigError::NoHome(_)) if node.location.origin == Origin::Default => {
                let default = format!("is unset instead of {}", node.value);
                let problem = format!("{default}, because HOME is not an absolute path");
                layers.warnings.push(node.warning(problem));
                Ok(None)
            }
            value => value.map(Some),
        }
    }
}

impl<T: Setting> Setting for Vec<T> {
    const KEY: Key = Key::new(ValueKind::List);

    fn read(node: &Node, layers: &mut Layers<'_>) -> Result<Self> {
        let mut item = node.clone();
        let values = node.value.as_array().into_iter().flatten();
        let items = values.map(|value| {
            item.value.clone_from(value);
            T::read(&item, layers)
        });
        items.collect()
    }
}

/// A leading `~/` is the home folder, but not in flags: the shell expands it.
impl Setting for PathBuf {
    const KEY: Key = Key::new(value_kind::PATH);

    fn read(node: &Node, layers: &mut Layers<'_>) -> Result<Self> {
        let Node { key, location, .. } = node;
        let text = String::read(node, layers)?;
        let path = match &location.origin {
            Origin::Flag(_) => PathBuf::from(&text),
            _ => expand_home(&text, layers.env, &format!("{location}: {key} = {text:?}"))?,
        };
        if path.is_relative() && matches!(location.origin, Origin::File(_)) {
            layers.warnings.push(node.warning(format!(
                "is the relative path {text:?}, which depends on the folder pixels is run in; \
                 start it with / or ~/"
            )));
        }
        Ok(path)
    }
}

impl Layers<'_> {
    /// Reads a key or section by its dotted name.
    pub fn read<T: Setting>(&mut self, name: &str) -> Result<T> {
        let unset = || Node::new(name, Origin::Default, Value::Table(Table::new()));
        let node = self.values.get(name).cloned().unwrap_or_else(unset);
        T::read(&node, self)
    }

    /// Reads a field of an entry. A missing field has the default of its type.
    pub fn field<T: Setting + Default>(&mut self, entry: &Node, name: &str) -> Result<T> {
        let Some(field) = entry.children.get(name) else {
            return Ok(T::default());
        };
        T::KEY.check(field)?;
        T::read(field, self)
    }
}
