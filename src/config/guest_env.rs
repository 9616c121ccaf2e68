//! The `[env]` table: variables for pixels, with literal values or values of
//! the caller's variables. Values may be secrets: messages never show them.

use std::collections::BTreeMap;
use std::ffi::OsString;

use toml::Value;

use super::interpolate::interpolate;
use super::key::Key;
use super::layer::Layers;
use super::origin::{ConfigError, Location, Result};
use super::setting::Setting;
use super::spanned_toml::Node;
use super::value_kind::ValueKind;
use crate::model::is_env_name;
use crate::secret::Secret;
use crate::user_dirs::Env;

/// The variables as configured, with references not yet replaced.
#[derive(Debug, Clone, Default)]
pub struct GuestEnv(Vec<Variable>);

#[derive(Debug, Clone)]
struct Variable {
    name: String,
    /// `None`: the value is that of the caller's variable with the same name.
    value: Option<Secret>,
    session_only: bool,
    location: Location,
}

/// Variables with their values, by name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct GuestVariables {
    /// Variables for every process, stored in the pixel at its creation.
    pub image: BTreeMap<String, String>,
    /// Variables for consoles and commands of this caller, never stored.
    pub session: BTreeMap<String, String>,
}

impl GuestEnv {
    /// Replaces references by values from `env`. `$NAME` is empty if `NAME` is
    /// unset; a forwarded variable is omitted if unset, and kept if empty.
    /// Fails if a referenced value is not UTF-8.
    pub fn resolve(&self, env: &Env<'_>) -> Result<GuestVariables> {
        let mut variables = GuestVariables::default();
        for variable in &self.0 {
            let name = &variable.name;
            let invalid = |problem: &str| ConfigError::Invalid {
                location: variable.location.clone(),
                problem: format!("env.{name} {problem}"),
            };
            let lookup = |variable: &str| {
                let text = env(variable).map(OsString::into_string).transpose();
                let problem = format!("takes the value of {variable}, which is not valid UTF-8");
                text.map_err(|_| invalid(&problem))
            };
            let value = match &variable.value {
                None => lookup(name)?,
                Some(text) => {
                    let reference = |variable: &str| Ok(lookup(variable)?.unwrap_or_default());
                    Some(interpolate(text.expose(), reference, invalid)?)
                }
            };
            let target = match variable.session_only {
                true => &mut variables.session,
                false => &mut variables.image,
            };
            target.extend(value.map(|value| (name.clone(), value)));
        }
        Ok(variables)
    }
}

impl Setting for GuestEnv {
    const KEY: Key = Key::new(ValueKind::Env);

    fn read(table: &Node, layers: &mut Layers<'_>) -> Result<Self> {
        let variables = table.children.iter();
        let variables = variables.filter_map(|(name, node)| read(name, node, layers).transpose());
        Ok(Self(variables.collect::<Result<_, _>>()?))
    }
}

/// Returns `None`, with a warning, if the entry sets no variable.
fn read(name: &str, node: &Node, layers: &mut Layers<'_>) -> Result<Option<Variable>> {
    if !is_env_name(name) {
        let rule = "only A-Z, a-z, 0-9 and _ are allowed, and no digit at the start";
        return Err(node.invalid(format!("is not a valid variable name: {rule}")));
    }
    let text = |node: &Node| match &node.value {
        Value::String(text) if text.contains('\0') => Err(node.invalid("contains a NUL character")),
        Value::String(text) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        _ => Err(node.wrong_type("a string")),
    };
    let flag = |name| match node.children.get(name).map(|field| (field, &field.value)) {
        None => Ok(false),
        Some((_, Value::Boolean(flag))) => Ok(*flag),
        Some((field, _)) => Err(field.wrong_type("true or false")),
    };
    let value = match &node.value {
        Value::Table(_) => node.children.get("value").map_or(Ok(None), text)?,
        Value::String(_) => text(node)?,
        _ => return Err(node.wrong_type("a string or a table with `value` or `forward`")),
    };
    let (forward, session_only) = (flag("forward")?, flag("session_only")?);
    layers.warn_unknown_fields(node, "value forward session_only");
    let mut warn = |problem: &str| layers.warnings.push(node.warning(problem));
    match &value {
        Some(_) if forward => warn("has a `value` without effect: it forwards your own value"),
        None if !forward => {
            warn("is ignored, because it has neither a value nor `forward = true`");
            return Ok(None);
        }
        Some(text) => {
            interpolate(text, |_| Ok(String::new()), |problem| node.invalid(problem))?;
        }
        None => {}
    }
    Ok(Some(Variable {
        name: name.to_owned(),
        value: value.filter(|_| !forward).map(Secret::new),
        session_only: forward || session_only,
        location: node.location.clone(),
    }))
}
