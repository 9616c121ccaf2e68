//! Expiry of pixels. The time of expiry is a property of the instance; no
//! process waits for it. The next command that lists pixels deletes the expired
//! ones.

use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;

use super::destroy::destroy;
use super::gateway::GatewaySpec;
use super::optional;
use crate::model::{Backend, Error, Instance, Name, Properties, Result, parse_rfc3339, rfc3339};

/// The property with the time of expiry in RFC 3339. Absent or empty: never.
/// Clones do not inherit it, and a restore does not change it.
pub(super) const KEY: &str = "expires-at";

/// When a pixel expires, in seconds since 1970.
pub fn expires_at(instance: &Instance) -> Option<i64> {
    parse_rfc3339(instance.properties.get(KEY)?)
}

/// The time until a pixel expires; zero if it has expired.
pub fn remaining(instance: &Instance) -> Option<Duration> {
    let seconds = expires_at(instance)? - now();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Properties of a pixel that expires after `ttl` from now; `None` is never.
pub fn expiry_properties(ttl: Option<Duration>) -> Result<Properties> {
    let text = match ttl {
        None => String::new(),
        Some(ttl) => i64::try_from(ttl.as_secs())
            .ok()
            .and_then(|seconds| now().checked_add(seconds))
            .and_then(rfc3339)
            .ok_or_else(|| Error::Invalid("the expiry is too far in the future".into()))?,
    };
    Ok([(KEY.to_owned(), text)].into())
}

/// Sets or clears a pixel's expiry. Returns the time of expiry in seconds since
/// 1970.
pub async fn set(backend: &dyn Backend, name: &Name, ttl: Option<Duration>) -> Result<Option<i64>> {
    let mut instance = backend.get(name).await?;
    let properties = expiry_properties(ttl)?;
    backend.set_properties(name, &properties).await?;
    instance.properties.extend(properties);
    Ok(expires_at(&instance))
}

/// Sets the expiry that `before` has, after a restore of the pixel.
pub async fn restore_expiry(backend: &dyn Backend, before: &Instance) -> Result<()> {
    let text = before.properties.get(KEY).cloned().unwrap_or_default();
    let properties = [(KEY.to_owned(), text)].into();
    backend.set_properties(&before.name, &properties).await
}

/// Whether a pixel has expired. A pixel that is still being created never has.
pub fn is_expired(instance: &Instance) -> bool {
    instance.started_once && expires_at(instance).is_some_and(|end| end <= now())
}

/// Deletes the expired pixels among `pixels`, in parallel, and removes them from
/// the list. Returns the outcome for each; a pixel that could not be deleted
/// stays on the list.
pub async fn destroy_expired(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixels: &mut Vec<Instance>,
) -> Vec<(Name, Result<()>)> {
    let expired = pixels.iter().filter(|pixel| is_expired(pixel));
    let outcomes = join_all(expired.map(|pixel| async {
        let outcome = destroy_if_expired(backend, gateway_spec, &pixel.name).await;
        (pixel.name.clone(), outcome)
    }))
    .await;
    pixels.retain(|pixel| {
        let is_gone = |(name, outcome): &(Name, Result<()>)| *name == pixel.name && outcome.is_ok();
        !outcomes.iter().any(is_gone)
    });
    outcomes
}

/// Deletes a pixel if it has expired according to the server now: its expiry may
/// have changed since the pixel was listed. A missing pixel counts as deleted.
pub(super) async fn destroy_if_expired(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    name: &Name,
) -> Result<()> {
    match optional(backend.get(name).await)? {
        Some(pixel) if is_expired(&pixel) => {
            optional(destroy(backend, gateway_spec, name).await).map(drop)
        }
        _ => Ok(()),
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}
