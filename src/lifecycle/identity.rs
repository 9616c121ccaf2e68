//! The identity of a new pixel: hostname, machine-id (used by DHCP and the
//! journal) and SSH host keys, which must differ between copies of a disk.
//!
//! A script that replaces init on the first boot sets the identity before
//! services start, without a request to the server. If the server does not
//! allow the script (a restricted Incus project), the stopped pixel's files are
//! changed.
//!
//! The backend removes the templates of images, which would write the same
//! files.

use super::creator::Creator;
use super::optional;
use crate::model::{Backend, FileKind, FirstBoot, Guest, GuestFile, InitScript, Name, Result};

const SCRIPT: &str = include_str!("guest/first-boot.sh");
const MACHINE_ID: &str = "/etc/machine-id";
const DBUS_MACHINE_ID: &str = "/var/lib/dbus/machine-id";
const HOSTNAME: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";
const HOSTS_LIMIT: u64 = 64 * 1024;
const SSH: &str = "/etc/ssh";
const UNITS: &str = "/etc/systemd/system";
const KEYS_UNIT: &str = "pixels-ssh-host-keys.service";

/// Returns the first-boot script of a new instance.
pub(super) fn first_boot(creator: &Creator, name: &Name) -> FirstBoot {
    FirstBoot {
        variables: vec![
            ("id".into(), format!("{}-{name}", creator.id())),
            ("name".into(), name.instance()),
        ],
        script: SCRIPT.to_owned(),
    }
}

/// Writes a new pixel's identity unless its first-boot script does this.
pub(super) async fn ensure_identity(
    backend: &dyn Backend,
    name: &Name,
    init_script: InitScript,
) -> Result<()> {
    match init_script {
        InitScript::Applied => Ok(()),
        InitScript::Unsupported => write_identity(&*backend.guest(name), name).await,
    }
}

/// Writes the identity to a stopped pixel. Idempotent.
async fn write_identity(guest: &dyn Guest, name: &Name) -> Result<()> {
    let host = name.instance();
    clear_machine_id(guest).await?;
    write_hostname(guest, &host).await?;
    replace_host_keys(guest).await
}

async fn clear_machine_id(guest: &dyn Guest) -> Result<()> {
    // systemd generates an id if the file is empty. The file does not exist in
    // images without systemd.
    if optional(guest.stat(MACHINE_ID).await)?
        .is_some_and(|f| f.kind == FileKind::File && f.size > 0)
    {
        guest
            .write_file(&GuestFile::root(MACHINE_ID, 0o444, ""))
            .await?;
    }
    // systemd would copy the id from this file, unless the file is a symlink.
    if optional(guest.stat(DBUS_MACHINE_ID).await)?.is_some_and(|f| f.kind == FileKind::File) {
        guest.remove_file(DBUS_MACHINE_ID).await?;
    }
    Ok(())
}

async fn write_hostname(guest: &dyn Guest, host: &str) -> Result<()> {
    // Symlinks of the image are kept.
    if optional(guest.stat(HOSTNAME).await)?.is_none_or(|found| found.kind == FileKind::File) {
        guest
            .write_file(&GuestFile::root(HOSTNAME, 0o644, format!("{host}\n")))
            .await?;
    }
    let hosts = match optional(guest.stat(HOSTS).await)? {
        None => Some("127.0.0.1 localhost".into()),
        Some(found) if found.kind == FileKind::File => {
            String::from_utf8(guest.read_file(HOSTS, HOSTS_LIMIT).await?).ok()
        }
        Some(_) => None,
    };
    if let Some(hosts) = hosts {
        let new = with_own_host(&hosts, host);
        guest
            .write_file(&GuestFile::root(HOSTS, 0o644, new))
            .await?;
    }
    Ok(())
}

/// Replaces the lines for the machine's own name in the text of `/etc/hosts`, or
/// appends a line.
fn with_own_host(hosts: &str, host: &str) -> String {
    let is_own = |line: &&str| line.split_whitespace().next() == Some("127.0.1.1");
    let others = hosts.lines().filter(|line| !is_own(line));
    let lines = others.map(|line| format!("{line}\n"));
    lines.chain([format!("127.0.1.1 {host}\n")]).collect()
}

/// Removes the SSH host keys and installs a unit that generates new keys before
/// the SSH server starts. Does nothing if there are no keys.
async fn replace_host_keys(guest: &dyn Guest) -> Result<()> {
    let entries = optional(guest.list_dir(SSH).await)?.unwrap_or_default();
    let keys: Vec<String> = entries
        .into_iter()
        .filter(|entry| entry.starts_with("ssh_host_") && entry.contains("_key"))
        .map(|entry| format!("{SSH}/{entry}"))
        .collect();
    if keys.is_empty() {
        return Ok(());
    }
    let wants = format!("{UNITS}/multi-user.target.wants");
    let unit = format!("{UNITS}/{KEYS_UNIT}");
    let content = include_str!("guest/pixels-ssh-host-keys.service");
    let file = GuestFile::root(&unit, 0o644, content);
    guest.write_file(&file).await?;
    guest.make_dir(&wants).await?;
    guest
        .symlink(&format!("{wants}/{KEYS_UNIT}"), &unit)
        .await?;
    for key in keys {
        guest.remove_file(&key).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_host_line_is_replaced_or_appended() {
        for hosts in [
            "127.0.0.1 localhost\n127.0.1.1\tpx-a px-a.lan\n",
            "127.0.0.1 localhost",
        ] {
            assert_eq!(
                with_own_host(hosts, "px-b"),
                "127.0.0.1 localhost\n127.0.1.1 px-b\n"
            );
        }
    }
}
