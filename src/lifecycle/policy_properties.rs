//! Instance properties that record a pixel's policy.

use super::checkpoint::find_checkpoint;
use crate::egress::{KEY, Mode, Policy};
use crate::model::{Backend, CloneSource, Error, Instance, Properties, Result};

/// Returns the recorded policy of a pixel. Fails with `Error::Protocol` if the
/// record is invalid.
pub fn recorded_policy(instance: &Instance) -> Result<Policy> {
    Policy::from_record(instance.properties.get(KEY).map(String::as_str))
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
    select_keys(properties, [KEY])
}

/// Returns properties that replace the policy.
pub(super) fn replacement(policy: &Policy) -> Properties {
    [(KEY.to_owned(), policy.to_record())].into()
}

/// See [`Network::new_policy_properties`](super::Network::new_policy_properties).
pub(super) fn of_new(policy: &Policy) -> Properties {
    if *policy == Policy::new(Mode::Unrestricted, []) {
        return Properties::new();
    }
    replacement(policy)
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
