//! Policies enforced inside pixels, on networks without a gateway: keeps the
//! policy files inside a pixel equal to its recorded policy.

use std::net::Ipv4Addr;

use super::policy_properties::policy_in_force;
use crate::egress::pixel::{self, Files};
use crate::egress::{self, Mode};
use crate::model::{Backend, Error, Guest, Instance, Name, Properties, Result, Status, Subject};

/// Present on a pixel with a policy inside; the value is [`Files::state`].
const KEY: &str = "egress-inside";
/// The DNS servers that the pixel uses instead of those its network announces.
const DNS: &str = "egress-dns";
/// How often a policy is applied before giving up on concurrent changes.
const ATTEMPTS: usize = 5;

/// Settings of policies inside pixels.
#[derive(Debug, Clone, Default)]
pub struct GuestPolicy {
    /// DNS servers to use instead of those that the network announces. A pixel
    /// keeps the servers it got with its first policy.
    pub dns: Vec<String>,
}

/// Whether this pixel has a policy inside.
pub(super) fn has_guest_policy(instance: &Instance) -> bool {
    instance.properties.contains_key(KEY)
}

/// Properties of a pixel without a policy inside.
fn cleared_properties() -> Properties {
    [KEY, DNS].map(|key| (key.to_owned(), String::new())).into()
}

/// Whether these files are on the disk according to the properties.
fn is_current(instance: &Instance, files: &Files) -> bool {
    instance.properties.get(KEY) == Some(&files.state)
}

impl GuestPolicy {
    fn dns(&self, instance: &Instance) -> String {
        if has_guest_policy(instance) {
            instance.properties.get(DNS).cloned().unwrap_or_default()
        } else {
            self.dns.join(",")
        }
    }

    /// The policy files of a pixel; `None` for an unrestricted policy.
    fn desired_files(&self, instance: &Instance) -> Result<Option<Files>> {
        let policy = policy_in_force(instance)?;
        Ok((policy.mode != Mode::Unrestricted).then(|| {
            let dns = self.dns(instance);
            let dns: Vec<Ipv4Addr> = dns.split(',').flat_map(str::parse).collect();
            Files::new(&policy.resolve(egress::presets()), &dns)
        }))
    }

    /// Properties that record which policy files the pixel has.
    pub fn properties(&self, instance: &Instance) -> Result<Properties> {
        Ok(match self.desired_files(instance)? {
            Some(files) => Properties::from([
                (KEY.to_owned(), files.state),
                (DNS.to_owned(), self.dns(instance)),
            ]),
            None => cleared_properties(),
        })
    }

    /// Prepares a pixel before its first start: writes its policy files, or
    /// removes those that a clone inherited and does not need.
    ///
    /// An image without the required packages gets the files after the start,
    /// before any process of the user runs. In a clone such processes may run at
    /// once, so that a clone without the packages is `Error::Unsupported`.
    pub async fn prepare(&self, backend: &dyn Backend, name: &Name, clone: bool) -> Result<()> {
        let instance = backend.get(name).await?;
        let guest = backend.guest(name);
        let disk_accessible = backend.can_access_stopped_files();
        match self.desired_files(&instance)? {
            // Opening the disk of a stopped pixel takes longer than its start.
            Some(files) if is_current(&instance, &files) => return Ok(()),
            Some(files) if disk_accessible => {
                if pixel::has_packages(&*guest).await? {
                    pixel::write(&*guest, &files).await?;
                } else if clone {
                    return Err(packages_missing(&instance));
                }
            }
            Some(_) if clone => return Err(stopped_clone_unsupported(&instance)),
            Some(_) => {}
            None if disk_accessible && has_guest_policy(&instance) => {
                return clear(backend, name).await;
            }
            // `ensure_enforced` removes the files after the start, because the
            // properties still record them.
            None => return Ok(()),
        }
        let properties = self.properties(&instance)?;
        backend.set_properties(name, &properties).await
    }

    /// Rewrites the policy files of a stopped pixel if this version of pixels
    /// generates other files than those on the disk.
    pub async fn refresh_files(&self, backend: &dyn Backend, instance: &Instance) -> Result<()> {
        let disk_accessible = backend.can_access_stopped_files();
        if instance.status != Status::Stopped || !has_guest_policy(instance) || !disk_accessible {
            return Ok(());
        }
        let guest = backend.guest(&instance.name);
        match self.desired_files(instance)? {
            Some(files)
                if !is_current(instance, &files) && pixel::has_packages(&*guest).await? =>
            {
                pixel::write(&*guest, &files).await?;
                let properties = self.properties(instance)?;
                backend.set_properties(&instance.name, &properties).await
            }
            _ => Ok(()),
        }
    }

    /// Applies the recorded policy in a running pixel unless it is in force.
    pub async fn ensure_enforced(&self, backend: &dyn Backend, name: &Name) -> Result<()> {
        let instance = backend.get(name).await?;
        if !has_guest_policy(&instance) {
            return Ok(());
        }
        let guest = backend.guest(name);
        match self.desired_files(&instance)? {
            Some(files) if pixel::is_in_force(&*guest, &files).await? => Ok(()),
            Some(files) => enforce(&*guest, &files).await,
            None => pixel::remove_running(&*guest).await,
        }
    }

    /// Whether the policy in force inside a running pixel is the recorded one.
    pub async fn is_enforced(&self, backend: &dyn Backend, instance: &Instance) -> Result<bool> {
        match self.desired_files(instance)? {
            Some(files) => pixel::is_in_force(&*backend.guest(&instance.name), &files).await,
            None => Ok(true),
        }
    }

    /// Applies the recorded policy, and again while other commands change the
    /// record. Gives up with `Error::Protocol` after 5 attempts.
    pub async fn sync_until_stable(&self, backend: &dyn Backend, name: &Name) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let instance = backend.get(name).await?;
            self.sync(backend, &instance).await?;
            // Of two concurrent commands, the last to read the record sees the
            // changes of both.
            let after = backend.get(name).await?;
            if policy_in_force(&after)? == policy_in_force(&instance)? {
                return Ok(());
            }
        }
        Err(Error::Protocol(format!(
            "concurrent changes of the policy of pixel {:?}: gave up after {ATTEMPTS} attempts",
            name.as_str()
        )))
    }

    async fn sync(&self, backend: &dyn Backend, instance: &Instance) -> Result<()> {
        let guest = backend.guest(&instance.name);
        let files = self.desired_files(instance)?;
        match (instance.status, files) {
            (Status::Running, Some(files)) => enforce(&*guest, &files).await,
            (Status::Running, None) => pixel::remove_running(&*guest).await,
            (Status::Stopped, Some(files)) => {
                if !pixel::has_packages(&*guest).await? {
                    return Err(packages_missing(instance));
                }
                pixel::write(&*guest, &files).await
            }
            (Status::Stopped, None) => pixel::remove(&*guest).await,
            (status, _) => Err(Error::WrongState {
                subject: Subject::pixel(&instance.name),
                state: status.as_str().to_lowercase(),
            }),
        }
    }
}

/// Applies a policy in a running pixel. A backend that reaches the pixel over a
/// network connection may lose that connection the first time, because the
/// policy did not know it; the second connection is allowed by the policy.
async fn enforce(guest: &dyn Guest, files: &Files) -> Result<()> {
    match pixel::enforce(guest, files).await {
        Err(Error::Unreachable { .. }) => pixel::enforce(guest, files).await,
        outcome => outcome,
    }
}

/// Removes the policy inside a stopped pixel.
pub(super) async fn clear(backend: &dyn Backend, name: &Name) -> Result<()> {
    pixel::remove(&*backend.guest(name)).await?;
    backend.set_properties(name, &cleared_properties()).await
}

fn stopped_clone_unsupported(instance: &Instance) -> Error {
    Error::Unsupported {
        operation: format!("another policy for the clone {:?}", instance.name.as_str()),
        reason: "this server gives no access to the files of a stopped pixel, so the clone would \
                 start under the policy of its source; clone without a policy and run: \
                 pixels network set"
            .into(),
    }
}

fn packages_missing(instance: &Instance) -> Error {
    let name = instance.name.as_str();
    Error::Unsupported {
        operation: format!("a restricted policy inside the stopped pixel {name:?}"),
        reason: "nftables and dnsmasq-base are not installed in it; start it and run \
                 pixels network set, which installs them, or clone a pixel that has a policy"
            .into(),
    }
}
