//! Sets up the pixel in which a base is built: waits for provisioning, runs the
//! setup script, and stops the pixel, so that its disk can be cloned.

use std::time::Duration;

use tokio::sync::mpsc;

use super::build::Build;
use super::log_tail::LogTail;
use super::{Error, Result};
use crate::lifecycle::{self, BootStage, ExecOptions, Lease, User, provisioning};
use crate::model::{ExecRequest, Guest, GuestFile, Instance, Name, Writer, unless_cancelled};
use crate::provision::{self, Overall};
use crate::retry;

const SCRIPT_DIR: &str = "/usr/local/lib/pixels";
const SCRIPT: &str = "/usr/local/lib/pixels/base-setup";
const TMPFILES_DIR: &str = "/etc/tmpfiles.d";
const TMPFILES: &str = "/etc/tmpfiles.d/tmp.conf";
/// Time limit for the pixel to shut down.
const GRACE: Duration = Duration::from_secs(30);
/// Time limit for an address. The setup script may not need an address.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(20);
/// Number of output lines shown for a failed provisioning step.
const TAIL_LINES: u32 = 20;

impl Build<'_> {
    /// Waits for provisioning, runs the setup script, and stops the pixel.
    pub(super) async fn set_up(
        &self,
        pixel: &Name,
        lease: Option<Lease<'_>>,
        script: Option<&[u8]>,
    ) -> Result<()> {
        let steps = async { Ok(self.run_steps(pixel, lease, script).await) };
        unless_cancelled(self.cancel, steps)
            .await
            .map_err(Error::in_base(self.base))?
    }

    async fn run_steps(
        &self,
        pixel: &Name,
        lease: Option<Lease<'_>>,
        script: Option<&[u8]>,
    ) -> Result<()> {
        let (backend, failed) = (self.backend, Error::in_base(self.base));
        let instance = backend.get(pixel).await.map_err(&failed)?;
        self.wait_until_ready(&instance, lease).await?;
        let guest = backend.guest(pixel);
        guest.make_dir(TMPFILES_DIR).await.map_err(&failed)?;
        let file = GuestFile::root(TMPFILES, 0o644, include_bytes!("guest/tmp.conf"));
        guest.write_file(&file).await.map_err(&failed)?;
        if let Some(script) = script {
            self.phase("running the setup script");
            self.run_script(&*guest, script).await?;
        }
        // Clones must not inherit temporary files.
        let clean = ExecRequest::root(["find", "/tmp", "-xdev", "-mindepth", "1", "-delete"]);
        guest.output(&clean).await.map_err(&failed)?;
        // An open file transfer session would delay the stop.
        drop(guest);
        self.phase("stopping");
        backend.stop(pixel, GRACE).await.map_err(&failed)
    }

    /// Waits for provisioning and boot, and at most 20 s for an address.
    async fn wait_until_ready(&self, instance: &Instance, lease: Option<Lease<'_>>) -> Result<()> {
        let (backend, failed) = (self.backend, Error::in_base(self.base));
        let pixel = &instance.name;
        let guest = backend.guest(pixel);
        if lease.is_some() || provisioning::is_unfinished(instance) {
            self.phase("provisioning");
            let report =
                lifecycle::finish_provisioning(backend, self.cancel, pixel, lease, &|_| {});
            let report = report.await.map_err(&failed)?;
            if report.overall == Overall::Failed
                && let Some(step) = report.failed()
            {
                let tail = provision::log_tail(&*guest, step, TAIL_LINES).await;
                return Err(Error::Provisioning {
                    base: self.base.to_owned(),
                    step: step.name.clone(),
                    tail: tail.map_err(&failed)?.trim_end().to_owned(),
                });
            }
        }
        lifecycle::wait_for_boot(&*guest, BootStage::Complete)
            .await
            .map_err(&failed)?;
        let _ = retry::until(ADDRESS_TIMEOUT, || async {
            match backend.address(pixel).await {
                Ok(Some(_)) => retry::Next::Done(()),
                _ => retry::Next::Again(()),
            }
        })
        .await;
        Ok(())
    }

    async fn run_script(&self, guest: &dyn Guest, script: &[u8]) -> Result<()> {
        let failed = Error::in_base(self.base);
        guest.make_dir(SCRIPT_DIR).await.map_err(&failed)?;
        // Provisioning, which may be disabled, installs the apt wrapper too.
        for (path, content) in [
            (provision::APT_PATH, provision::APT.as_bytes()),
            (SCRIPT, script),
        ] {
            let file = GuestFile::root(path, 0o755, content);
            guest.write_file(&file).await.map_err(&failed)?;
        }
        let argv = match script.starts_with(b"#!") {
            true => vec![SCRIPT.to_owned()],
            false => vec!["/bin/bash".to_owned(), SCRIPT.to_owned()],
        };
        let options = ExecOptions {
            argv,
            user: User::lookup(guest, "root").await.map_err(&failed)?,
            env: [("DEBIAN_FRONTEND".to_owned(), "noninteractive".to_owned())].into(),
            cwd: None,
            tty: None,
            timeout: None,
        };
        let output = Writer::new(LogTail::new(self.observer.output.clone()));
        let streams: lifecycle::ExecStreams = (
            Box::new(tokio::io::empty()),
            Box::new(output.clone()),
            Box::new(output.clone()),
        );
        let (_signals, controls) = mpsc::channel(1);
        let result = lifecycle::exec(guest, &options, None, streams, controls)
            .await
            .map_err(&failed)?;
        if !result.status.success() {
            return Err(Error::Script {
                base: self.base.to_owned(),
                status: result.status.0,
                tail: output.lock().tail(),
            });
        }
        guest.remove_file(SCRIPT).await.map_err(&failed)
    }
}
