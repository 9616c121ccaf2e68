//! Pixels that are to go by themselves. The moment stands on the server, with
//! the pixel; no process waits for it: whatever command lists pixels next
//! removes those whose time is over.

use std::time::Duration;

use futures_util::future::join_all;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::destroy::destroy;
use super::gateway::GatewaySpec;
use crate::model::{Backend, Error, Instance, Name, Properties, Result};

/// The property: a moment in RFC 3339; absent or empty, never. Clones do not
/// take it over, and going back to a checkpoint does not bring it back.
pub(super) const KEY: &str = "expires-at";

/// When a pixel's time is over, in seconds since 1970.
pub fn expires_at(instance: &Instance) -> Option<i64> {
    let text = instance.properties.get(KEY)?;
    let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(moment.unix_timestamp())
}

/// How long it has still to live.
pub fn remaining(instance: &Instance) -> Option<Duration> {
    let left = expires_at(instance)? - now().unix_timestamp();
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

/// The record of a pixel that lives this long from now on; `None` is for ever.
pub fn record(lifetime: Option<Duration>) -> Result<Properties> {
    let text = match lifetime {
        None => String::new(),
        Some(lifetime) => time::Duration::try_from(lifetime)
            .ok()
            .and_then(|lifetime| now().checked_add(lifetime))
            .and_then(|moment| moment.replace_nanosecond(0).ok()?.format(&Rfc3339).ok())
            .ok_or_else(|| Error::Invalid("a lifetime beyond the end of the calendar".into()))?,
    };
    Ok([(KEY.to_owned(), text)].into())
}

/// Gives a pixel another lifetime, from now on; returns when it is over.
pub async fn set(
    backend: &dyn Backend,
    name: &Name,
    lifetime: Option<Duration>,
) -> Result<Option<i64>> {
    let mut instance = backend.get(name).await?;
    let record = record(lifetime)?;
    backend.set_properties(name, &record).await?;
    instance.properties.extend(record);
    Ok(expires_at(&instance))
}

/// Puts the lifetime of `before` on record again, whatever became of it.
pub async fn restore_expiry(backend: &dyn Backend, before: &Instance) -> Result<()> {
    let text = before.properties.get(KEY).cloned().unwrap_or_default();
    let record = [(KEY.to_owned(), text)].into();
    backend.set_properties(&before.name, &record).await
}

/// Whether its time is over. One that is still being made is left to its maker.
pub fn is_expired(instance: &Instance) -> bool {
    instance.started_once && expires_at(instance).is_some_and(|end| end <= now().unix_timestamp())
}

/// Removes those of `pixels` whose time is over, and takes them off the list.
/// Returns the names of what was removed, and of what could not be and why.
pub async fn destroy_expired(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    pixels: &mut Vec<Instance>,
) -> Vec<(Name, Result<()>)> {
    let over: Vec<Name> = pixels
        .iter()
        .filter(|pixel| is_expired(pixel))
        .map(|pixel| pixel.name.clone())
        .collect();
    let removed = join_all(over.iter().map(|name| remove(backend, gateway_spec, name))).await;
    let outcomes: Vec<_> = over.into_iter().zip(removed).collect();
    pixels.retain(|pixel| {
        let gone = |(name, outcome): &(Name, Result<()>)| *name == pixel.name && outcome.is_ok();
        !outcomes.iter().any(gone)
    });
    outcomes
}

/// Removes one whose time is over. Looked at again, for somebody may have
/// given it more meanwhile; already gone counts as done.
pub(super) async fn remove(
    backend: &dyn Backend,
    gateway_spec: &GatewaySpec,
    name: &Name,
) -> Result<()> {
    let outcome = async {
        if is_expired(&backend.get(name).await?) {
            destroy(backend, gateway_spec, name).await?;
        }
        Ok(())
    };
    match outcome.await {
        Err(error @ Error::NotFound(_)) => {
            tracing::debug!(%error, "expired");
            Ok(())
        }
        other => other,
    }
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
