//! Policies that are enforced inside the pixels, on networks without a gateway:
//! what is inside a pixel is kept equal to what its record says.

use std::net::Ipv4Addr;

use crate::egress::pixel::{self, Files};
use crate::egress::{self, Denial, Mode, Policy};
use crate::model::{Backend, Error, Guest, Instance, Name, Properties, Result, Status, Subject};

/// Marks a pixel that has a policy inside; the value is [`Files::state`].
const KEY: &str = "egress-inside";
/// The resolvers it asks, where those that its network announces are not wanted.
const DNS: &str = "egress-dns";
/// How often a change is made again because another command changed the record meanwhile.
const ATTEMPTS: usize = 5;

/// How policies are put inside.
#[derive(Debug, Clone, Default)]
pub struct GuestPolicy {
    /// Resolvers in place of those that the pixels' network announces; a pixel
    /// keeps those it was given with its policy.
    pub dns: Vec<String>,
}

/// Whether this pixel has a policy inside.
pub(super) fn has_guest_policy(instance: &Instance) -> bool {
    instance.properties.contains_key(KEY)
}

/// The record of a pixel without a policy inside.
fn no_records() -> Properties {
    [KEY, DNS].map(|key| (key.to_owned(), String::new())).into()
}

/// Whether this is what the record says is on the disk.
fn is_current(instance: &Instance, files: &Files) -> bool {
    instance.properties.get(KEY) == Some(&files.state)
}

/// What was refused inside, the latest first.
pub(super) async fn denials(backend: &dyn Backend, name: &Name) -> Result<Vec<Denial>> {
    egress::denials(&*backend.guest(name), None).await
}

impl GuestPolicy {
    fn dns(&self, instance: &Instance) -> String {
        if has_guest_policy(instance) {
            instance.properties.get(DNS).cloned().unwrap_or_default()
        } else {
            self.dns.join(",")
        }
    }

    /// What the record wants inside; `None` for an unrestricted policy.
    fn desired_files(&self, instance: &Instance) -> Result<Option<Files>> {
        let policy = policy_in_force(instance)?;
        Ok((policy.mode != Mode::Unrestricted).then(|| {
            let dns = self.dns(instance);
            let dns: Vec<Ipv4Addr> = dns.split(',').flat_map(str::parse).collect();
            Files::new(&policy.resolve(egress::presets()), &dns)
        }))
    }

    /// What the record is to say of the inside when it says this of the policy.
    pub fn records(&self, instance: &Instance) -> Result<Properties> {
        Ok(match self.desired_files(instance)? {
            Some(files) => Properties::from([
                (KEY.to_owned(), files.state),
                (DNS.to_owned(), self.dns(instance)),
            ]),
            None => no_records(),
        })
    }

    /// Before the first start: puts the policy on the disk. A new pixel that
    /// lacks what it takes gets it once it runs and before anything of the
    /// user's does; in a clone, something of the user's may run at once.
    pub async fn prepare(&self, backend: &dyn Backend, name: &Name, clone: bool) -> Result<()> {
        let instance = backend.get(name).await?;
        let guest = backend.guest(name);
        let reachable = backend.capabilities().stopped_files;
        match self.desired_files(&instance)? {
            // Opening the disk of a stopped pixel costs more than starting it.
            Some(files) if is_current(&instance, &files) => Ok(()),
            // Once it runs, and before anything of the user's does.
            Some(_) if !reachable && !clone => {
                let record = self.records(&instance)?;
                backend.set_properties(name, &record).await
            }
            Some(_) if !reachable => Err(stopped_clone_unsupported(&instance)),
            // It stays on record until it is lifted from within.
            None if !reachable => Ok(()),
            Some(files) => {
                let able = pixel::has_packages(&*guest).await?;
                if clone && !able {
                    return Err(packages_missing(&instance));
                }
                if able {
                    pixel::write(&*guest, &files).await?;
                }
                let record = self.records(&instance)?;
                backend.set_properties(name, &record).await
            }
            None if has_guest_policy(&instance) => clear(backend, name).await,
            None => Ok(()),
        }
    }

    /// Before another start: what this version of pixels makes of the record is
    /// on the disk.
    pub async fn refresh_files(&self, backend: &dyn Backend, instance: &Instance) -> Result<()> {
        let reachable = backend.capabilities().stopped_files;
        if instance.status != Status::Stopped || !has_guest_policy(instance) || !reachable {
            return Ok(());
        }
        let guest = backend.guest(&instance.name);
        match self.desired_files(instance)? {
            Some(files)
                if !is_current(instance, &files) && pixel::has_packages(&*guest).await? =>
            {
                pixel::write(&*guest, &files).await?;
                let record = self.records(instance)?;
                backend.set_properties(&instance.name, &record).await
            }
            _ => Ok(()),
        }
    }

    /// Sees to it that a running pixel is under the policy on its record.
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

    /// Whether what is in force inside a running pixel is what its record says.
    pub async fn is_enforced(&self, backend: &dyn Backend, instance: &Instance) -> Result<bool> {
        match self.desired_files(instance)? {
            Some(files) => pixel::is_in_force(&*backend.guest(&instance.name), &files).await,
            None => Ok(true),
        }
    }

    /// Makes the inside equal to the record, which has just been changed.
    pub async fn sync_until_stable(&self, backend: &dyn Backend, name: &Name) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let instance = backend.get(name).await?;
            self.sync(backend, &instance).await?;
            // Of two commands at once, the last to look sees what both did.
            let after = backend.get(name).await?;
            if policy_in_force(&after)? == policy_in_force(&instance)? {
                return Ok(());
            }
        }
        Err(Error::Protocol(format!(
            "the policy of pixel {:?} is changed by others all the time",
            name.as_str()
        )))
    }

    async fn sync(&self, backend: &dyn Backend, instance: &Instance) -> Result<()> {
        let guest = backend.guest(&instance.name);
        let wanted = self.desired_files(instance)?;
        match (instance.status, wanted) {
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

/// Puts a policy into force in a running pixel. Where a backend's own way in is
/// a connection to the pixel that the policy could not be told of, it is cut the
/// first time; the next one is known to it as one from outside.
async fn enforce(guest: &dyn Guest, files: &Files) -> Result<()> {
    match pixel::enforce(guest, files).await {
        Err(Error::Unreachable { .. }) => pixel::enforce(guest, files).await,
        outcome => outcome,
    }
}

/// Takes out of a stopped pixel what another enforces from now on, or nobody.
pub(super) async fn clear(backend: &dyn Backend, name: &Name) -> Result<()> {
    pixel::remove(&*backend.guest(name)).await?;
    backend.set_properties(name, &no_records()).await
}

/// The policy to be in force now.
fn policy_in_force(instance: &Instance) -> Result<Policy> {
    let property = |key: &str| instance.properties.get(key).map(String::as_str);
    super::network::parse_policy(
        instance,
        property(egress::INTERIM).or_else(|| property(egress::KEY)),
    )
}

fn stopped_clone_unsupported(instance: &Instance) -> Error {
    Error::Unsupported {
        operation: format!("another policy for the clone {:?}", instance.name.as_str()),
        reason:
            "files of a pixel that does not run cannot be reached on this server, and it would \
                 start under the policy of its source; clone it under that one and change it with \
                 pixels network set"
                .into(),
    }
}

fn packages_missing(instance: &Instance) -> Error {
    let name = instance.name.as_str();
    Error::Unsupported {
        operation: format!("a restricted policy inside the stopped pixel {name:?}"),
        reason: "nftables and dnsmasq-base are not installed in it; set the policy of a running \
                 pixel with pixels network set, which installs them, or clone one that has a policy"
            .into(),
    }
}
