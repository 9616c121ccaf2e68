//! Installs a gateway: packages, files, services.

use super::subnet::Subnet;
use super::{dhcp, ruleset};
use crate::egress::script;
use crate::model::{ExecRequest, Guest, GuestFile, Result, hex, sha256};

const CODE: &str = "/usr/local/lib/pixels/gateway";
pub(super) const STATE: &str = "/var/lib/pixels/gateway";
const UNITS: &str = "/etc/systemd/system";
const SETUP: &str = include_str!("guest/setup.sh");
const SAVE_LEARNED: &str = include_str!("guest/save_learned.sh");
/// Size limit for learned addresses, far above the usual size.
const LEARNED_LIMIT: u64 = 16 * 1024 * 1024;

/// Directory, name and content of a file in `guest/`.
macro_rules! guest_file {
    ($dir:expr, $name:literal) => {
        ($dir, $name, include_str!(concat!("guest/", $name)))
    };
}

const JOURNALD: &str = "/etc/systemd/journald.conf.d";

const FILES: &[(&str, &str, &str)] = &[
    guest_file!(CODE, "boot.sh"),
    guest_file!(CODE, "load.sh"),
    guest_file!(CODE, "resolvers.sh"),
    guest_file!(CODE, "save_learned.sh"),
    guest_file!(CODE, "prefetch_dns.sh"),
    guest_file!(CODE, "record_names.sh"),
    guest_file!(CODE, "compact_names.sh"),
    guest_file!(UNITS, "pixels-queries.socket"),
    guest_file!(UNITS, "pixels-queries.service"),
    guest_file!(UNITS, "pixels-forwarder.service"),
    guest_file!(JOURNALD, "journald.conf"),
    guest_file!(UNITS, "pixels-learned.service"),
    guest_file!(UNITS, "pixels-learned.timer"),
    guest_file!(UNITS, "pixels-gateway.service"),
    guest_file!(UNITS, "pixels-dhcp.service"),
    guest_file!(UNITS, "pixels-resolvers.service"),
    guest_file!(UNITS, "pixels-resolver@.service"),
];

/// Version of the installed files. A gateway with another version must be
/// installed again.
pub fn version() -> String {
    // The version does not depend on the subnet.
    let subnet = Subnet::for_bridge("", "");
    let files = FILES.iter().map(|(_, _, content)| (*content).to_owned());
    let generated = [
        SETUP.to_owned(),
        dhcp::config(subnet),
        ruleset::base(subnet, None),
    ];
    hex(&sha256(files.chain(generated))[..6])
}

/// Installs a gateway for `subnet` in a running instance with the interfaces
/// `eth0` (uplink) and `eth1` (isolated bridge). The gateway forwards no
/// packets until policies are applied. A second call updates the files.
///
/// `learned`: addresses that the previous gateway's resolvers learned.
///
/// Fails with `Error::Unsupported` if the image cannot install the packages.
pub async fn install(guest: &dyn Guest, subnet: Subnet, learned: Option<Vec<u8>>) -> Result<()> {
    for dir in [
        "/usr/local/lib/pixels",
        CODE,
        "/var/lib/pixels",
        STATE,
        JOURNALD,
    ] {
        guest.make_dir(dir).await?;
    }
    for (dir, name, content) in FILES {
        guest.write_file(&file(dir, name, *content)).await?;
    }
    let settings = format!(
        "PIXELS_ADDRESS={}\nPIXELS_PREFIX={}\n",
        subnet.gateway(),
        subnet.prefix()
    );
    guest.write_file(&file(STATE, "settings", settings)).await?;
    guest
        .write_file(&file(STATE, "dhcp.conf", dhcp::config(subnet)))
        .await?;
    if let Some(content) = learned {
        let file = GuestFile::root(format!("{STATE}/learned"), 0o600, content);
        guest.write_file(&file).await?;
    }
    let base = ruleset::base(subnet, None);
    guest.write_file(&file(STATE, "closed", base)).await?;
    let request = ExecRequest::root(["/bin/sh", "-c", SETUP, "gateway"]);
    let output = guest.output(&request).await?;
    script::check(
        "setting up the gateway",
        "a gateway from this image",
        &output,
    )
}

/// Returns the addresses that the resolvers learned, for [`install`].
pub async fn learned(guest: &dyn Guest) -> Result<Vec<u8>> {
    let request = ExecRequest::root(["/bin/sh", "-c", SAVE_LEARNED, "save_learned"]);
    guest.output(&request).await?;
    guest
        .read_file(&format!("{STATE}/learned"), LEARNED_LIMIT)
        .await
}

fn file(dir: &str, name: &str, content: impl Into<Vec<u8>>) -> GuestFile {
    GuestFile::root(format!("{dir}/{name}"), 0o644, content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::gateway::desired_state::RESOLVER_LOG;
    use crate::egress::nftables::RENEWABLE_TIMEOUT;

    #[test]
    fn scripts_and_units_agree_with_generated_files() {
        let content = |name: &str| FILES.iter().find(|(_, n, _)| *n == name).unwrap().2;
        let timeout = format!(" timeout {RENEWABLE_TIMEOUT} expires ");
        for script in ["save_learned.sh", "load.sh"] {
            assert!(content(script).contains(&timeout), "{script}");
        }
        let pipe = format!("\nListenFIFO={RESOLVER_LOG}\n");
        assert!(content("pixels-queries.socket").contains(&pipe));
    }
}
