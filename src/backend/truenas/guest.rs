//! `Guest` over SSH: commands on channels, files by SFTP.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use super::Truenas;
use super::ssh::Session;
use crate::sandbox::{
    Error, ExecIo, ExecRequest, ExitStatus, FileStat, Guest, GuestFile, Name, Output, Result,
};

/// One pixel's inside. A pixel that does not run has none: its files are out
/// of reach too.
pub(super) struct SshGuest<'a> {
    server: &'a Truenas,
    name: &'a Name,
}

impl<'a> SshGuest<'a> {
    pub fn new(server: &'a Truenas, name: &'a Name) -> Self {
        Self { server, name }
    }

    async fn session(&self) -> Result<Arc<Session>> {
        self.server.needs_virt("work in a pixel").await?;
        let place = || self.server.host(self.name);
        self.server.ssh.session(&self.name.instance(), place).await
    }
}

#[async_trait]
impl Guest for SshGuest<'_> {
    async fn exec(&self, request: &ExecRequest, io: ExecIo) -> Result<ExitStatus> {
        let session = self.session().await?;
        self.server.ssh.exec(&session, request, io).await
    }

    async fn output(&self, request: &ExecRequest) -> Result<Output> {
        let (stdout, stderr) = (Collector::default(), Collector::default());
        let (_steer, control) = mpsc::channel(1);
        let io = ExecIo {
            stdin: Box::new(tokio::io::empty()),
            stdout: Box::new(stdout.clone()),
            stderr: Box::new(stderr.clone()),
            control,
        };
        let status = self.exec(request, io).await?;
        Ok(Output {
            status,
            stdout: stdout.take(),
            stderr: stderr.take(),
        })
    }

    async fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        self.session().await?.read(path, limit).await
    }

    async fn write_file(&self, file: &GuestFile) -> Result<()> {
        self.session().await?.write(file).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        // By SFTP it would fail where something is in the way.
        let request = ExecRequest::root(["mv", "-fT", "--", from, to]);
        let output = self.output(&request).await?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Guest {
            command: format!("mv {from} {to}"),
            status: output.status.0,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    async fn read_link(&self, path: &str) -> Result<String> {
        self.session().await?.read_link(path).await
    }

    async fn remove_file(&self, path: &str) -> Result<()> {
        self.session().await?.remove(path).await
    }

    async fn make_dir(&self, path: &str) -> Result<()> {
        self.session().await?.make_dir(path).await
    }

    async fn symlink(&self, path: &str, target: &str) -> Result<()> {
        self.session().await?.symlink(path, target).await
    }

    async fn list_dir(&self, path: &str) -> Result<Vec<String>> {
        self.session().await?.list(path).await
    }

    async fn stat(&self, path: &str) -> Result<FileStat> {
        self.session().await?.stat(path).await
    }
}

/// Collects a stream in memory.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<u8>>>);

impl Collector {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsyncWrite for Collector {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
