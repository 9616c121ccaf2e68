//! What makes an instance a gateway: packages, files, services.

use ring::digest;

use super::ruleset;
use super::subnet::Subnet;
use crate::egress::render::hex;
use crate::model::{Error, ExecRequest, Guest, GuestFile, Ids, Result};

const CODE: &str = "/usr/local/lib/pixels/gateway";
const STATE: &str = "/var/lib/pixels/gateway";
const UNITS: &str = "/etc/systemd/system";
const SETUP: &str = include_str!("guest/setup.sh");
const LEARN: &str = include_str!("guest/learned.sh");
/// Far more than resolvers ever learn.
const LEARNED_LIMIT: u64 = 16 * 1024 * 1024;
/// The image can never become a gateway.
const LACKING: i32 = 90;

const FILES: &[(&str, &str, &str)] = &[
    (CODE, "boot.sh", include_str!("guest/boot.sh")),
    (CODE, "load.sh", include_str!("guest/load.sh")),
    (CODE, "resolvers.sh", include_str!("guest/resolvers.sh")),
    (CODE, "learned.sh", LEARN),
    (CODE, "warm.sh", include_str!("guest/warm.sh")),
    (
        UNITS,
        "pixels-learned.service",
        include_str!("guest/pixels-learned.service"),
    ),
    (
        UNITS,
        "pixels-learned.timer",
        include_str!("guest/pixels-learned.timer"),
    ),
    (
        UNITS,
        "pixels-gateway.service",
        include_str!("guest/pixels-gateway.service"),
    ),
    (
        UNITS,
        "pixels-dhcp.service",
        include_str!("guest/pixels-dhcp.service"),
    ),
    (
        UNITS,
        "pixels-resolvers.service",
        include_str!("guest/pixels-resolvers.service"),
    ),
    (
        UNITS,
        "pixels-resolver@.service",
        include_str!("guest/pixels-resolver@.service"),
    ),
];

/// Differs whenever a gateway has to be installed anew.
pub fn version() -> String {
    let mut hash = digest::Context::new(&digest::SHA256);
    let subnet: Option<Subnet> = "10.0.0.0/8".parse().ok();
    for text in FILES
        .iter()
        .map(|(_, _, content)| (*content).to_owned())
        .chain([SETUP.to_owned()])
        .chain(subnet.map(|subnet| format!("{}{}", dhcp(subnet), ruleset::base(subnet, None))))
    {
        hash.update(text.as_bytes());
    }
    hex(&hash.finish().as_ref()[..6])
}

/// Makes a running instance with the interfaces `eth0` (out) and `eth1` (the
/// segment) the gateway of `subnet`. Until rules are put into force, nothing
/// passes. Repeating it brings the files up to date and keeps what is in force.
///
/// `learned`: what the resolvers of the gateway before it knew.
pub async fn install(guest: &dyn Guest, subnet: Subnet, learned: Option<Vec<u8>>) -> Result<()> {
    for dir in ["/usr/local/lib/pixels", CODE, "/var/lib/pixels", STATE] {
        guest.make_dir(dir).await?;
    }
    for (dir, name, content) in FILES {
        guest
            .write_file(&file(dir, name, (*content).to_owned()))
            .await?;
    }
    let settings = format!(
        "PIXELS_ADDRESS={}\nPIXELS_PREFIX={}\n",
        subnet.gateway(),
        subnet.prefix()
    );
    guest.write_file(&file(STATE, "settings", settings)).await?;
    guest
        .write_file(&file(STATE, "dhcp.conf", dhcp(subnet)))
        .await?;
    if let Some(content) = learned {
        let path = format!("{STATE}/learned");
        let file = GuestFile {
            path,
            content,
            mode: 0o600,
            owner: Ids::ROOT,
        };
        guest.write_file(&file).await?;
    }
    let base = ruleset::base(subnet, None);
    guest.write_file(&file(STATE, "closed", base)).await?;
    let request = ExecRequest::root(["/bin/sh", "-c", SETUP, "gateway"]);
    let output = guest.output(&request).await?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = stderr.trim().lines().rev().take(5).collect();
    let said = last.into_iter().rev().collect::<Vec<_>>().join("\n");
    if output.status.0 == LACKING {
        return Err(Error::Unsupported {
            operation: "a gateway from this image".into(),
            reason: said.into(),
        });
    }
    Err(Error::Guest {
        command: "setting up the gateway".into(),
        status: output.status.0,
        stderr: said,
    })
}

/// What its resolvers know, for the gateway that takes its place.
pub async fn learned(guest: &dyn Guest) -> Result<Vec<u8>> {
    let request = ExecRequest::root(["/bin/sh", "-c", LEARN, "learned"]);
    guest.output(&request).await?;
    guest
        .read_file(&format!("{STATE}/learned"), LEARNED_LIMIT)
        .await
}

fn file(dir: &str, name: &str, content: String) -> GuestFile {
    GuestFile {
        path: format!("{dir}/{name}"),
        content: content.into_bytes(),
        mode: 0o644,
        owner: Ids::ROOT,
    }
}

/// Every pixel its address on record, and nobody any other.
fn dhcp(subnet: Subnet) -> String {
    let gateway = subnet.gateway();
    format!(
        "port=0\n\
         interface=eth1\n\
         bind-dynamic\n\
         except-interface=lo\n\
         no-ping\n\
         dhcp-authoritative\n\
         dhcp-rapid-commit\n\
         dhcp-range={network},static,{netmask},10m\n\
         dhcp-option=option:router,{gateway}\n\
         dhcp-option=option:dns-server,{gateway}\n\
         dhcp-hostsfile={STATE}/hosts\n\
         dhcp-leasefile=/run/pixels/leases\n\
         quiet-dhcp\n",
        network = subnet.network(),
        netmask = subnet.netmask(),
    )
}
