//! Policies enforced inside pixels, on networks without a gateway. Keeps the
//! policy files inside a pixel consistent with the recorded policy.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::policy_properties::{recorded_policy, select_keys};
use crate::egress::pixel::{self, Files};
use crate::egress::{self, Mode, Policy};
use crate::model::{Backend, Error, Guest, Instance, Name, Properties, Result, Status, Subject};

/// Property of a pixel with a policy inside: [`Files::state`] of its files, or
/// [`PENDING`] if they are to be written or removed, which the next start does.
pub(super) const KEY: &str = "egress-inside";
const PENDING: &str = "pending";
/// Property with DNS servers to use instead of those of the pixel's network.
const DNS: &str = "egress-dns";
/// Number of attempts to apply a policy despite concurrent changes.
const ATTEMPTS: usize = 5;

/// Settings for policies inside pixels.
#[derive(Debug, Clone, Default)]
pub struct GuestPolicy {
    /// DNS servers to use instead of those of the network. A pixel keeps the
    /// servers of its first policy.
    pub dns: Vec<String>,
}

/// Whether a pixel has a policy inside.
pub(super) fn has_guest_policy(instance: &Instance) -> bool {
    instance.properties.contains_key(KEY)
}

/// Whether a pixel without a gateway has a policy inside, or must get one: the command
/// that created it may have been killed before it wrote the files.
pub(super) fn needs_guest_policy(instance: &Instance) -> bool {
    let restricted = |policy: Policy| policy.mode != Mode::Unrestricted;
    has_guest_policy(instance) || recorded_policy(instance).map_or(true, restricted)
}

/// Returns properties that remove the record of a policy inside.
fn cleared_properties() -> Properties {
    [KEY, DNS].map(|key| (key.to_owned(), String::new())).into()
}

/// Whether these files are on the disk, according to the properties.
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

    fn servers(&self, instance: &Instance) -> Vec<Ipv4Addr> {
        self.dns(instance).split(',').flat_map(str::parse).collect()
    }

    /// The policy files of a pixel; `None` for an unrestricted policy.
    fn desired_files(&self, instance: &Instance) -> Result<Option<Files>> {
        let policy = recorded_policy(instance)?;
        Ok((policy.mode != Mode::Unrestricted)
            .then(|| Files::new(&policy.resolve(egress::presets()), &self.servers(instance))))
    }

    /// Returns properties that record the policy files of a pixel.
    pub fn properties(&self, instance: &Instance) -> Result<Properties> {
        Ok(match self.desired_files(instance)? {
            Some(files) => Properties::from([
                (KEY.to_owned(), files.state),
                (DNS.to_owned(), self.dns(instance)),
            ]),
            None => cleared_properties(),
        })
    }

    /// Returns properties that record that the policy files of a pixel are to be
    /// written or removed. Empty for an unrestricted pixel without files.
    pub fn pending_properties(&self, instance: &Instance) -> Result<Properties> {
        let needs_files = recorded_policy(instance)?.mode != Mode::Unrestricted;
        Ok(match needs_files || has_guest_policy(instance) {
            true => Properties::from([
                (KEY.to_owned(), PENDING.to_owned()),
                (DNS.to_owned(), self.dns(instance)),
            ]),
            false => Properties::new(),
        })
    }

    /// Prepares a pixel before its first start: writes its policy files, or
    /// removes inherited files that a clone does not need.
    ///
    /// If packages are missing in an image, the files are written after the
    /// start, before any user process runs. In a clone, user processes may run
    /// at once, so missing packages are `Error::Unsupported`.
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
                } else {
                    return Ok(());
                }
            }
            Some(_) if clone => return Err(stopped_clone_unsupported(&instance)),
            Some(_) => return Ok(()),
            None if disk_accessible && has_guest_policy(&instance) => {
                return clear(backend, name).await;
            }
            // `ensure_enforced` removes the files after the start, because the
            // properties still record the files.
            None => return Ok(()),
        }
        let properties = self.properties(&instance)?;
        backend.set_properties(name, &properties).await
    }

    /// Rewrites the policy files of a stopped pixel if they are not those of the
    /// recorded policy, or if this version of pixels generates different files.
    pub async fn refresh_files(&self, backend: &dyn Backend, instance: &Instance) -> Result<()> {
        let disk_accessible = backend.can_access_stopped_files();
        if instance.status != Status::Stopped || !disk_accessible {
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
            Some(_) => Ok(()),
            None if has_guest_policy(instance) => clear(backend, &instance.name).await,
            None => Ok(()),
        }
    }

    /// Applies the recorded policy in a running pixel, unless already applied.
    pub async fn ensure_enforced(&self, backend: &dyn Backend, name: &Name) -> Result<()> {
        let instance = backend.get(name).await?;
        let guest = backend.guest(name);
        let is_recorded = match self.desired_files(&instance)? {
            Some(files) => {
                let is_current = is_current(&instance, &files);
                if !is_current || !pixel::is_in_force(&*guest, &files).await? {
                    enforce(&*guest, &files).await?;
                }
                is_current
            }
            None if has_guest_policy(&instance) => {
                pixel::remove_running(&*guest).await?;
                false
            }
            None => true,
        };
        if is_recorded {
            return Ok(());
        }
        let properties = self.properties(&instance)?;
        backend.set_properties(name, &properties).await
    }

    /// Whether a running pixel has applied its recorded policy.
    pub async fn is_enforced(&self, backend: &dyn Backend, instance: &Instance) -> Result<bool> {
        match self.desired_files(instance)? {
            Some(files) => pixel::is_in_force(&*backend.guest(&instance.name), &files).await,
            None => Ok(true),
        }
    }

    /// Begins the provisioning lease of a running pixel, or restarts its time.
    /// `policy`: the policy during the lease.
    pub async fn begin_lease(
        &self,
        backend: &dyn Backend,
        name: &Name,
        policy: &Policy,
        max: Duration,
    ) -> Result<()> {
        let instance = backend.get(name).await?;
        let files = self.desired_files(&instance)?;
        if files.is_some_and(|files| !is_current(&instance, &files)) {
            // Files of another version of pixels may have no leases.
            self.sync_until_stable(backend, name).await?;
        }
        let policy = policy.resolve(egress::presets());
        pixel::begin_lease(&*backend.guest(name), &policy, max).await
    }

    /// Applies the recorded policy and records its files. Repeats this if another
    /// command changes the record. Fails with `Error::Protocol` after 5 attempts.
    pub async fn sync_until_stable(&self, backend: &dyn Backend, name: &Name) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let instance = backend.get(name).await?;
            self.sync(backend, &instance).await?;
            // Of two concurrent commands, the command that reads the record
            // last applies the changes of both.
            let after = backend.get(name).await?;
            if recorded_policy(&after)? == recorded_policy(&instance)? {
                let properties = self.properties(&instance)?;
                let keys = properties.keys().map(String::as_str);
                return match select_keys(&after.properties, keys) == properties {
                    true => Ok(()),
                    false => backend.set_properties(name, &properties).await,
                };
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

/// Applies a policy in a running pixel. If the backend uses a network
/// connection to the pixel, the first attempt may close that connection, which
/// is older than the policy. The policy allows the connection of the second
/// attempt.
async fn enforce(guest: &dyn Guest, files: &Files) -> Result<()> {
    match pixel::enforce(guest, files).await {
        Err(Error::Unreachable { .. }) => pixel::enforce(guest, files).await,
        outcome => outcome,
    }
}

/// Removes the policy from a stopped pixel.
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
