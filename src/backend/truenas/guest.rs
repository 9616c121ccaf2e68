//! Implements `Guest` over SSH: commands on channels, files over SFTP.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::Truenas;
use super::ssh::Session;
use crate::backend::sftp;
use crate::model::{ExecIo, ExecRequest, ExitStatus, FileStat, Guest, GuestFile, Name, Result};

/// Commands and files in a running pixel. Files of a stopped pixel are not
/// accessible.
pub(super) struct SshGuest<'a> {
    server: &'a Truenas,
    name: &'a Name,
}

impl<'a> SshGuest<'a> {
    pub fn new(server: &'a Truenas, name: &'a Name) -> Self {
        Self { server, name }
    }

    async fn session(&self) -> Result<Arc<Session>> {
        self.server.needs_virt("access to a pixel by SSH").await?;
        let host = || self.server.host(self.name);
        self.server.ssh.session(&self.name.instance(), host).await
    }
}

#[async_trait]
impl Guest for SshGuest<'_> {
    async fn exec(&self, request: &ExecRequest, io: ExecIo) -> Result<ExitStatus> {
        let session = self.session().await?;
        self.server.ssh.exec(&session, request, io).await
    }

    async fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let session = self.session().await?;
        sftp::read(session.sftp().await?, path, limit).await
    }

    async fn write_file(&self, file: &GuestFile) -> Result<()> {
        let session = self.session().await?;
        sftp::write(session.sftp().await?, file).await
    }

    async fn write_chunks(&self, path: &str, content: mpsc::Receiver<Bytes>) -> Result<()> {
        let session = self.session().await?;
        sftp::write_chunks(session.sftp().await?, path, content).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        // The rename request of SFTP fails if the target exists.
        let request = ExecRequest::root(["mv", "-fT", "--", from, to]);
        let output = self.output(&request).await?;
        output.into_text(&format!("mv {from} {to}")).map(drop)
    }

    async fn read_link(&self, path: &str) -> Result<String> {
        let session = self.session().await?;
        sftp::read_link(session.sftp().await?, path).await
    }

    async fn remove_file(&self, path: &str) -> Result<()> {
        let session = self.session().await?;
        sftp::remove(session.sftp().await?, path).await
    }

    async fn make_dir(&self, path: &str) -> Result<()> {
        let session = self.session().await?;
        sftp::make_dir(session.sftp().await?, path).await
    }

    async fn symlink(&self, path: &str, target: &str) -> Result<()> {
        let session = self.session().await?;
        sftp::symlink(session.sftp().await?, path, target).await
    }

    async fn list_dir(&self, path: &str) -> Result<Vec<String>> {
        let session = self.session().await?;
        sftp::list(session.sftp().await?, path).await
    }

    async fn stat(&self, path: &str) -> Result<FileStat> {
        let session = self.session().await?;
        sftp::stat(session.sftp().await?, path).await
    }
}
