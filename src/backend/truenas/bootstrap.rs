//! First contact: how a pixel that has only its image gets an SSH server that
//! takes our key. Its files are written from outside (`files`), and a restart
//! makes the pixel act on them.

use std::time::Duration;

use serde_json::json;

use super::Truenas;
use super::error::Failure;
use super::properties::{self, PropertyKey};
use super::ssh::Host;
use crate::model::{Error, GuestFile, Ids, Name, Result, Subject};

const LIB: &str = "/usr/local/lib/pixels";
const UNITS: &str = "/etc/systemd/system";
const RESTART: Duration = Duration::from_secs(120);
/// With the download of an SSH server.
const READY: Duration = Duration::from_secs(10 * 60);

impl Truenas {
    /// Makes the way in where there is none yet. The pixel runs.
    pub(super) async fn contact(&self, name: &Name) -> Result<()> {
        let found = self.find_virt(name).await?;
        if PropertyKey::Contact.read_properties(&found.environment) != Some(properties::PENDING) {
            return Ok(());
        }
        let key = self.ssh.public_key().await?;
        let root = self.root_fs(name, &found).await?;
        for file in files(&key, self.script(name)) {
            self.put_first(&root, &file).await?;
        }
        // What was written while it was being stopped went nowhere.
        if self.find_virt(name).await?.status != "RUNNING" {
            return Err(Error::WrongState {
                subject: Subject::pixel(name),
                state: "stopped by somebody before it was ready".into(),
            });
        }
        let params = json!([name.instance(), {"force": true}]);
        let doing = "restarting the pixel";
        self.run_state(name, "virt.instance.restart", params, doing, RESTART)
            .await
            .map_err(|failure| Failure::into_error_for(failure, Subject::pixel(name)))?;
        self.ssh.wait(|| self.host(name), READY).await?;
        self.change_environment(name, |environment| {
            PropertyKey::Contact.set(environment, properties::DONE);
            Ok(())
        })
        .await
    }

    /// Where the pixel's SSH server is, when it has an address.
    pub(super) async fn host(&self, name: &Name) -> Result<Option<Host>> {
        let found = self.find_virt(name).await?;
        if found.status != "RUNNING" {
            return Err(Error::WrongState {
                subject: Subject::pixel(name),
                state: found.status.to_lowercase(),
            });
        }
        Ok(found.address().map(|address| Host {
            instance: name.instance(),
            id: PropertyKey::Id
                .read_properties(&found.environment)
                .unwrap_or("-")
                .to_owned(),
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
        // The environment of a command must not stand in its arguments.
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
        // Links cannot be made from outside; a drop-in does what one would.
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
