//! Instance properties that record a pixel's policy.

use super::checkpoint::find_checkpoint;
use crate::egress::{INTERIM, KEY, Mode, Policy};
use crate::model::{Backend, CloneSource, Error, Instance, Properties, Result};

/// Returns the recorded policy of a pixel. Fails with `Error::Protocol` if the
/// record is invalid.
pub fn recorded_policy(instance: &Instance) -> Result<Policy> {
    parse(instance, KEY)
}

/// Returns the policy to enforce: the interim policy if present.
pub(super) fn policy_in_force(instance: &Instance) -> Result<Policy> {
    parse(instance, if is_interim(instance) { INTERIM } else { KEY })
}

/// Whether the pixel has an interim policy, which allows more than its recorded
/// policy during provisioning.
pub fn is_interim(instance: &Instance) -> bool {
    instance.properties.contains_key(INTERIM)
}

fn parse(instance: &Instance, key: &str) -> Result<Policy> {
    Policy::from_record(instance.properties.get(key).map(String::as_str))
        .map_err(|e| Error::Protocol(format!("pixel {:?}: {e}", instance.name.as_str())))
}

/// Copies these keys. A missing key gets an empty value, which deletes the
/// property when the result is written back.
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

/// Copies the properties of a policy. Missing properties are empty.
pub(super) fn select(properties: &Properties) -> Properties {
    select_keys(properties, [KEY, INTERIM])
}

/// Returns properties that replace the policy and end an interim policy.
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

/// Returns properties that override those a clone inherits: the `requested`
/// policy, or `default` if the source is unrestricted, or no properties.
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

/// Returns the recorded policy of a pixel, or of the checkpoint in `from`.
pub async fn source_policy(backend: &dyn Backend, from: &CloneSource) -> Result<Policy> {
    let mut source = backend.get(&from.pixel).await?;
    if let Some(label) = &from.label {
        let checkpoint = find_checkpoint(backend, &from.pixel, label).await?;
        source.properties = checkpoint.properties;
    }
    recorded_policy(&source)
}
