//! What must differ between two machines with the same disk: hostname,
//! machine-id (DHCP and the journal go by it) and SSH host keys.
//!
//! The way is a script that runs in place of init on the first boot and then
//! becomes init: everything is new before any service of the pixel starts,
//! and it costs no request. Where the server does not let us set what runs
//! first (a restricted Incus project), the same is done on the stopped pixel
//! over its file access.
//!
//! Templates of the server would do too, but Incus releases before 6.0.6
//! follow links that root inside a pixel planted when it writes them.

use super::creator::Creator;
use crate::model::{Backend, FileKind, FirstBoot, Guest, GuestFile, Ids, InitScript, Name, Result};

const SCRIPT: &str = include_str!("guest/first-boot.sh");
const MACHINE_ID: &str = "/etc/machine-id";
const DBUS_MACHINE_ID: &str = "/var/lib/dbus/machine-id";
const HOSTNAME: &str = "/etc/hostname";
const HOSTS: &str = "/etc/hosts";
const SSH: &str = "/etc/ssh";
const UNITS: &str = "/etc/systemd/system";
const KEYS_UNIT: &str = "pixels-ssh-host-keys.service";
const LIMIT: u64 = 64 * 1024;

/// What a new pixel is to run on its first boot.
pub(super) fn first_boot(creator: &Creator, name: &Name) -> FirstBoot {
    FirstBoot {
        variables: vec![
            ("id".into(), format!("{}-{name}", creator.unique())),
            ("name".into(), name.instance()),
        ],
        script: SCRIPT.to_owned(),
    }
}

/// Sees to the identity of a pixel that was just made and never started.
pub(super) async fn ensure_identity(
    backend: &dyn Backend,
    name: &Name,
    taken: InitScript,
) -> Result<()> {
    match taken {
        InitScript::Applied => Ok(()),
        InitScript::Unsupported => renew(&*backend.guest(name), name).await,
    }
}

/// Gives a stopped pixel an identity of its own. Repeating it is harmless.
async fn renew(guest: &dyn Guest, name: &Name) -> Result<()> {
    let host = name.instance();
    clear_machine_id(guest).await?;
    rename(guest, &host).await?;
    drop_host_keys(guest).await
}

async fn clear_machine_id(guest: &dyn Guest) -> Result<()> {
    // systemd fills an empty file at boot; an absent one belongs to another init.
    if optional(guest.stat(MACHINE_ID).await)?
        .is_some_and(|f| f.kind == FileKind::File && f.size > 0)
    {
        guest
            .write_file(&text_file(MACHINE_ID, String::new(), 0o444))
            .await?;
    }
    // As a file of its own it would be taken over as the new id.
    if optional(guest.stat(DBUS_MACHINE_ID).await)?.is_some_and(|f| f.kind == FileKind::File) {
        guest.remove_file(DBUS_MACHINE_ID).await?;
    }
    Ok(())
}

async fn rename(guest: &dyn Guest, host: &str) -> Result<()> {
    // A link is the image's own arrangement.
    if optional(guest.stat(HOSTNAME).await)?.is_none_or(|found| found.kind == FileKind::File) {
        guest
            .write_file(&text_file(HOSTNAME, format!("{host}\n"), 0o644))
            .await?;
    }
    let hosts = optional(guest.read_file(HOSTS, LIMIT).await)?;
    if let Some(new) = hosts
        .and_then(|content| String::from_utf8(content).ok())
        .and_then(|content| renamed_hosts(&content, host))
    {
        guest.write_file(&text_file(HOSTS, new, 0o644)).await?;
    }
    Ok(())
}

/// `/etc/hosts` with the line of the machine's own name replaced; `None` when
/// it has none.
fn renamed_hosts(content: &str, host: &str) -> Option<String> {
    let own = |line: &str| line.split_whitespace().next() == Some("127.0.1.1");
    content.lines().any(own).then(|| {
        content
            .lines()
            .map(|line| {
                if own(line) {
                    format!("127.0.1.1 {host}\n")
                } else {
                    format!("{line}\n")
                }
            })
            .collect()
    })
}

/// Removes the keys and sees to it that the next boot makes new ones before
/// the SSH server starts; an image without an SSH server is left alone.
async fn drop_host_keys(guest: &dyn Guest) -> Result<()> {
    let Some(entries) = optional(guest.list_dir(SSH).await)? else {
        return Ok(());
    };
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
    let content = include_str!("guest/pixels-ssh-host-keys.service").to_owned();
    guest.write_file(&text_file(&unit, content, 0o644)).await?;
    guest.make_dir(&wants).await?;
    guest
        .symlink(&format!("{wants}/{KEYS_UNIT}"), &unit)
        .await?;
    for key in keys {
        guest.remove_file(&key).await?;
    }
    Ok(())
}

fn text_file(path: &str, content: String, mode: u32) -> GuestFile {
    GuestFile {
        path: path.to_owned(),
        content: content.into_bytes(),
        mode,
        owner: Ids::ROOT,
    }
}

fn optional<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_line_of_hosts_follows_the_new_name() {
        let hosts = "127.0.0.1 localhost\n127.0.1.1\tpx-a px-a.lan\n";
        assert_eq!(
            renamed_hosts(hosts, "px-b").as_deref(),
            Some("127.0.0.1 localhost\n127.0.1.1 px-b\n")
        );
        assert_eq!(renamed_hosts("127.0.0.1 localhost\n", "px-b"), None);
    }
}
