//! Bootstrap of a new pixel: installs an SSH server that accepts the user's
//! key. Writes the files from outside (`bootstrap_files`) and restarts the
//! pixel to run them.

use std::time::Duration;

use serde_json::json;

use super::Truenas;
use super::properties::{self, PropertyKey};
use super::ssh::{Host, host_key_name};
use crate::model::{Error, GuestFile, Ids, Name, Result, Subject};

const LIB: &str = "/usr/local/lib/pixels";
const UNITS: &str = "/etc/systemd/system";
const RESTART_TIMEOUT: Duration = Duration::from_secs(120);
/// Deadline of the bootstrap, including the download of the SSH server.
const SSH_TIMEOUT: Duration = Duration::from_secs(10 * 60);

impl Truenas {
    /// Installs an SSH server in a running pixel, unless SSH already works.
    pub(super) async fn bootstrap(&self, name: &Name) -> Result<()> {
        const OPERATION: &str = "access to a pixel by SSH";
        let virt = self.find_virt(name, OPERATION).await?;
        if PropertyKey::Bootstrap.get(&virt.environment) != Some(properties::PENDING) {
            return Ok(());
        }
        let key = self.ssh.public_key().await?;
        let root = self.root_fs(name, &virt).await?;
        let script = self.first_boot_scripts().get(name).cloned();
        for file in files(&key, script) {
            self.write_into(&root, &file).await?;
        }
        // Files written after the unmount are not on the pixel's disk.
        if self.find_virt(name, OPERATION).await?.status != "RUNNING" {
            return Err(Error::WrongState {
                subject: Subject::pixel(name),
                state: "stopped before it was ready".into(),
            });
        }
        let params = json!([name.instance(), {"force": true}]);
        let (method, doing) = ("virt.instance.restart", "restarting the pixel");
        self.run_state(name, method, params, doing, RESTART_TIMEOUT)
            .await
            .map_err(|failure| failure.into_error_for(Subject::pixel(name)))?;
        self.ssh
            .wait_for_session(|| self.host(name), SSH_TIMEOUT)
            .await?;
        self.change_environment(name, |environment| {
            PropertyKey::Bootstrap.set(environment, properties::DONE);
            Ok(())
        })
        .await
    }

    /// Returns the pixel's SSH server, or `None` while the pixel has no address.
    /// Fails unless the pixel is running.
    pub(super) async fn host(&self, name: &Name) -> Result<Option<Host>> {
        let virt = self.find_virt(name, "access to a pixel by SSH").await?;
        if virt.status != "RUNNING" {
            return Err(Error::WrongState {
                subject: Subject::pixel(name),
                state: virt.status.to_lowercase(),
            });
        }
        let id = PropertyKey::Id.get(&virt.environment).unwrap_or("-");
        Ok(virt.address().map(|address| Host {
            instance: name.instance(),
            key_name: host_key_name(&name.instance(), id),
            address,
        }))
    }
}

fn files(key: &str, script: Option<String>) -> Vec<GuestFile> {
    let file = |path: String, mode: u32, content: &str| GuestFile {
        path,
        content: content.as_bytes().to_vec(),
        mode,
        owner: Ids::ROOT,
    };
    let mut files = vec![
        file(
            "/root/.ssh/authorized_keys".into(),
            0o600,
            &format!("{}\n", key.trim()),
        ),
        file(
            "/etc/ssh/sshd_config.d/pixels.conf".into(),
            0o644,
            include_str!("guest/sshd.conf"),
        ),
        file(
            format!("{LIB}/contact"),
            0o755,
            include_str!("guest/contact.sh"),
        ),
        file(
            format!("{UNITS}/pixels-contact.service"),
            0o644,
            include_str!("guest/pixels-contact.service"),
        ),
        // A drop-in replaces a `.wants` link, because the file method cannot create links.
        file(
            format!("{UNITS}/multi-user.target.d/pixels-contact.conf"),
            0o644,
            "[Unit]\nWants=pixels-contact.service\n",
        ),
    ];
    if let Some(script) = script {
        files.extend([
            file(format!("{LIB}/first-boot"), 0o755, &script),
            file(
                format!("{LIB}/identity"),
                0o755,
                include_str!("guest/identity.sh"),
            ),
            file(
                format!("{UNITS}/pixels-identity.service"),
                0o644,
                include_str!("guest/pixels-identity.service"),
            ),
            file(
                format!("{UNITS}/sysinit.target.d/pixels-identity.conf"),
                0o644,
                "[Unit]\nWants=pixels-identity.service\n",
            ),
        ]);
    }
    files
}
