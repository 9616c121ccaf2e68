//! Implements [`Guest`] with exec sockets for commands and SFTP for files.

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OnceCell, mpsc};

use super::client::Client;
use super::{exec, instance_lock, sftp_channel};
use crate::backend::sftp;
use crate::file_lock::LockMode;
use crate::model::{
    ExecIo, ExecRequest, ExitStatus, FileStat, Guest, GuestFile, Name, Precondition, Result,
    Subject,
};

/// The guest of a pixel. Opens the SFTP session on first use.
pub(super) struct IncusGuest<'a> {
    client: &'a Client,
    name: &'a Name,
    files: OnceCell<sftp::Files>,
}

impl<'a> IncusGuest<'a> {
    pub fn new(client: &'a Client, name: &'a Name) -> Self {
        Self {
            client,
            name,
            files: OnceCell::new(),
        }
    }

    async fn prepare(&self, request: &ExecRequest) -> Result<exec::PreparedExec> {
        exec::prepare(self.client, &self.name.instance(), request)
            .await
            .map_err(|failure| failure.into_error_for(Subject::pixel(self.name)))
    }

    async fn run(&self, prepared: exec::PreparedExec, io: ExecIo) -> Result<ExitStatus> {
        exec::run(self.client, prepared, io)
            .await
            .map_err(|failure| failure.into_error_for(Subject::pixel(self.name)))
    }

    async fn files(&self) -> Result<&sftp::Files> {
        self.files
            .get_or_try_init(|| async {
                // The daemon mounts the disk of a stopped instance during the session.
                let _lock = instance_lock::lock(self.client, self.name, LockMode::Shared).await?;
                sftp_channel::open(self.client, &self.name.instance()).await
            })
            .await
            .map_err(|failure| failure.into_error_for(Subject::pixel(self.name)))
    }
}

#[async_trait]
impl Guest for IncusGuest<'_> {
    async fn exec(&self, request: &ExecRequest, io: ExecIo) -> Result<ExitStatus> {
        let prepared = self.prepare(request).await?;
        self.run(prepared, io).await
    }

    async fn exec_admitted(
        &self,
        request: &ExecRequest,
        io: ExecIo,
        precondition: Precondition<'_>,
    ) -> Result<ExitStatus> {
        let (prepared, condition) = tokio::join!(self.prepare(request), precondition);
        condition?;
        match prepared? {
            prepared if prepared.is_stale() => self.exec(request, io).await,
            prepared => self.run(prepared, io).await,
        }
    }

    async fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        sftp::read(self.files().await?, path, limit).await
    }

    async fn write_file(&self, file: &GuestFile) -> Result<()> {
        sftp::write(self.files().await?, file).await
    }

    async fn write_chunks(&self, path: &str, content: mpsc::Receiver<Bytes>) -> Result<()> {
        sftp::write_chunks(self.files().await?, path, content).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        sftp::rename(self.files().await?, from, to).await
    }

    async fn remove_file(&self, path: &str) -> Result<()> {
        sftp::remove(self.files().await?, path).await
    }

    async fn make_dir(&self, path: &str) -> Result<()> {
        sftp::make_dir(self.files().await?, path).await
    }

    async fn symlink(&self, path: &str, target: &str) -> Result<()> {
        sftp::symlink(self.files().await?, path, target).await
    }

    async fn read_link(&self, path: &str) -> Result<String> {
        sftp::read_link(self.files().await?, path).await
    }

    async fn list_dir(&self, path: &str) -> Result<Vec<String>> {
        sftp::list(self.files().await?, path).await
    }

    async fn stat(&self, path: &str) -> Result<FileStat> {
        sftp::stat(self.files().await?, path).await
    }
}
