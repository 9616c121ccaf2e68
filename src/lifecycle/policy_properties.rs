//! The instance properties that record a pixel's policy.

use super::checkpoint::find_checkpoint;
use crate::egress::{INTERIM, KEY, Mode, Policy};
use crate::model::{Backend, CloneSource, Error, Instance, Properties, Result};

/// The recorded policy of a pixel. A record that cannot be parsed is
/// `Error::Protocol`.
pub fn recorded_policy(instance: &Instance) -> Result<Policy> {
    parse(instance, KEY)
}

/// The policy to enforce now: the interim policy while there is one.
pub(super) fn policy_in_force(instance: &Instance) -> Result<Policy> {
    parse(instance, if is_interim(instance) { INTERIM } else { KEY })
}

/// Whether an interim policy allows more than the recorded policy while the
/// pixel is provisioned.
pub fn is_interim(instance: &Instance) -> bool {
    instance.properties.contains_key(INTERIM)
}

fn parse(instance: &Instance, key: &str) -> Result<Policy> {
    Policy::from_record(instance.properties.get(key).map(String::as_str))
        .map_err(|e| Error::Protocol(format!("pixel {:?}: {e}", instance.name.as_str())))
}

/// Copies these keys; a missing key becomes an empty value, which removes it
/// when the result is written back.
pub(super) fn select_keys<'a>(
    properties: &Properties,
    keys: impl IntoIterator<Item = &'a str>,
) -> Properties {
    keys.into_iter()
        .map(|key| {
            let value = properties.get(key).cloned().unwrap_or_default();
            (key.to_owned(), value)
        })
        .collect()
}

/// The properties that record a policy; missing ones are empty.
pub(super) fn select(properties: &Properties) -> Properties {
    select_keys(properties, [KEY, INTERIM])
}

/// Properties that replace any policy, and end an interim one.
pub(super) fn replacement(policy: &Policy) -> Properties {
    [
        (KEY.to_owned(), policy.to_record()),
        (INTERIM.to_owned(), String::new()),
    ]
    .into()
}

/// See [`Network::new_policy_properties`](super::Network::new_policy_properties).
pub(super) fn of_new(policy: &Policy, installs: bool) -> Properties {
    if *policy == Policy::new(Mode::Unrestricted, []) {
        return Properties::new();
    }
    let mut properties = Properties::from([(KEY.to_owned(), policy.to_record())]);
    if installs && policy.mode == Mode::Allowlist {
        let interim = policy.in_mode(Mode::Agent);
        properties.insert(INTERIM.to_owned(), interim.to_record());
    }
    properties
}

/// Properties to set on a clone over those it inherits: the `requested` policy,
/// else `default` if the source is unrestricted, else none.
pub async fn clone_policy_properties(
    backend: &dyn Backend,
    requested: Option<&Policy>,
    default: &Policy,
    from: &CloneSource,
) -> Result<Properties> {
    if let Some(requested) = requested {
        return Ok(replacement(requested));
    }
    if default.mode == Mode::Unrestricted {
        return Ok(Properties::new());
    }
    Ok(match source_policy(backend, from).await?.mode {
        Mode::Unrestricted => replacement(default),
        _ => Properties::new(),
    })
}

/// The recorded policy of a pixel, or of its checkpoint if `from` names one.
pub async fn source_policy(backend: &dyn Backend, from: &CloneSource) -> Result<Policy> {
    let mut source = backend.get(&from.pixel).await?;
    if let Some(label) = &from.label {
        let checkpoint = find_checkpoint(backend, &from.pixel, label).await?;
        source.properties = checkpoint.properties;
    }
    recorded_policy(&source)
}
