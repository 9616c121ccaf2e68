//! Expiry of pixels. The expiry time is stored as a property of the instance,
//! and no process waits for it. The next command that lists pixels deletes
//! expired pixels.

use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;

use super::destroy::destroy;
use super::gateway::GatewaySpec;
use super::optional;
use crate::model::{Backend, Error, Instance, Name, Properties, Result, parse_rfc3339, rfc3339};

/// The property with the expiry time in RFC 3339. Missing or empty: no expiry.
/// Clones do not inherit the expiry, and a restore does not change it.
pub(super) const KEY: &str = "expires-at";

/// Returns the expiry time of a pixel, in seconds since 1970.
pub fn expires_at(instance: &Instance) -> Option<i64> {
    parse_rfc3339(instance.properties.get(KEY)?)
}

/// Returns the time until a pixel expires. Zero if the pixel has expired.
pub fn remaining(instance: &Instance) -> Option<Duration> {
    let seconds = expires_at(instance)? - now();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The time in RFC 3339 that is `duration` from now.
pub fn after(duration: Duration) -> Option<String> {
    let seconds = i64::try_from(duration.as_secs()).ok()?;
    rfc3339(now().checked_add(seconds)?)
}

/// Returns properties for an expiry after `ttl` from now. `None`: no expiry.
pub fn expiry_properties(ttl: Option<Duration>) -> Result<Properties> {
    let text = match ttl {
        None => String::new(),
        Some(ttl) => after(ttl)
            .ok_or_else(|| Error::Invalid("the expiry is too far in the future".into()))?,
    };
    Ok([(KEY.to_owned(), text)].into())
}

/// Sets or clears a pixel's expiry. Returns the expiry time in seconds since
/// 1970.
pub async fn set(backend: &dyn Backend, name: &Name, ttl: Option<Duration>) -> Result<Option<i64>> {
    let mut instance = backend.get(name).await?;
    let properties = expiry_properties(ttl)?;
    backend.set_properties(name, &properties).await?;
    instance.properties.extend(properties);
    Ok(expires_at(&instance))
}

/// Whether a pixel has expired. False while the pixel is being created.
pub fn is_expired(instance: &Instance) -> bool {
    instance.started_once && expires_at(instance).is_some_and(|end| end <= now())
}

/// Deletes the expired pixels in `pixels`, in parallel, and removes them from
/// the list. Returns the result for each expired pixel. A pixel that cannot be
/// deleted stays in the list.
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

/// Deletes a pixel if it is still expired: its expiry may have changed since
/// the pixel was listed. Succeeds if the pixel does not exist.
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

/// Current time in seconds since 1970.
fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}
