//! Provisioning leases of a pixel that enforces its own policy.

use std::time::Duration;

use super::apply::run;
use super::files;
use super::ruleset::{self, LEASE_KEY};
use crate::egress::lease;
use crate::egress::nftables;
use crate::egress::policy::ResolvedPolicy;
use crate::egress::script;
use crate::model::{Guest, GuestFile, Result};

/// Temporary files, which are not part of checkpoints and clones.
const DIR: &str = "/run/pixels/lease";

/// Begins the lease of a running pixel, or restarts its time. The pixel has
/// applied its recorded policy; `policy` is the policy during the lease. `max`:
/// maximum time of the lease with all renewals.
pub async fn begin_lease(guest: &dyn Guest, policy: &ResolvedPolicy, max: Duration) -> Result<()> {
    let chains = nftables::chains(policy, None);
    guest.make_dir(DIR).await?;
    for (name, content) in [
        ("rules", ruleset::lease_rules(&chains)),
        ("resolver", files::resolver(policy, ruleset::LEASE_PORT)),
    ] {
        let file = GuestFile::root(format!("{DIR}/{name}"), 0o644, content);
        guest.write_file(&file).await?;
    }
    let seconds = (max + lease::LEASE).as_secs().to_string();
    let output = run(guest, "lease", &["begin", &seconds]).await?;
    let doing = "beginning the provisioning lease";
    script::check(doing, doing, &output)
}

/// Restarts the time of the lease. Returns false if it has ended.
pub async fn renew_lease(guest: &dyn Guest) -> Result<bool> {
    lease::renew(guest, LEASE_KEY).await
}

pub async fn end_lease(guest: &dyn Guest) -> Result<()> {
    run(guest, "lease", &["end"]).await.map(drop)
}

/// Returns the remaining time of the lease.
pub async fn lease(guest: &dyn Guest) -> Result<Option<Duration>> {
    Ok(lease::leases(guest).await?.remove(LEASE_KEY))
}
