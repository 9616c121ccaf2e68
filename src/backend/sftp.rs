//! Files by SFTP, version 3, as both backends have it: the one's server is the
//! daemon's and confines itself to the root filesystem of the instance, the
//! other's is OpenSSH's and runs inside. No path leads out of the pixel.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::client::{Config, SftpSession};
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;

use crate::model::{Error, FileKind, FileStat, GuestFile, Ids, Result, Subject};

/// What the server may send to list one folder: some ten thousand names. How
/// many there are is up to the pixel.
const LISTING: u64 = 16 * 1024 * 1024;

const TIMEOUT: Duration = Duration::from_secs(10);
/// For what is under way of a large file, also on a slow line.
const SLOW: Duration = Duration::from_secs(120);
/// Of one packet, with its head: the most that Incus's server takes. OpenSSH's
/// says itself that it takes a little less.
const LARGEST: u32 = 256 * 1024;

/// A session. A listing that has no end ends it; everything else that comes
/// has a length that was asked for, or is one packet.
pub struct Files {
    session: SftpSession,
    /// Bytes that may still come.
    left: Arc<AtomicU64>,
}

impl Files {
    pub async fn open<S>(stream: S) -> Result<Self, SftpError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let stream = Counted {
            stream,
            left: Arc::clone(&left),
        };
        let config = Config {
            max_write_packet_len: LARGEST,
            request_timeout_secs: TIMEOUT.as_secs(),
            ..Config::default()
        };
        let session = SftpSession::new_with_config(stream, config).await?;
        Ok(Self { session, left })
    }
}

impl Deref for Files {
    type Target = SftpSession;

    fn deref(&self) -> &SftpSession {
        &self.session
    }
}

/// Breaks when more comes than may.
struct Counted<S> {
    stream: S,
    left: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let came = (buffer.filled().len() - before) as u64;
        let less = |left: u64| Some(left.saturating_sub(came));
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        match left {
            Ok(left) if left > came => Poll::Ready(Ok(())),
            _ => Poll::Ready(Err(std::io::ErrorKind::FileTooLarge.into())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn fault(path: &str, error: SftpError) -> Error {
    match error {
        SftpError::Status(status) => match status.status_code {
            StatusCode::NoSuchFile => Error::NotFound(Subject::Path(path.to_owned())),
            _ => Error::Server {
                code: 0,
                message: format!("{path}: {}", status.error_message),
            },
        },
        SftpError::Timeout => Error::TimedOut {
            doing: format!("access to {path}"),
            after: TIMEOUT,
        },
        other => Error::Unreachable {
            endpoint: "the pixel's files".into(),
            reason: other.to_string().into(),
        },
    }
}

fn missing(error: &SftpError) -> bool {
    matches!(error, SftpError::Status(status) if status.status_code == StatusCode::NoSuchFile)
}

pub async fn read(sftp: &Files, path: &str, limit: u64) -> Result<Vec<u8>> {
    let mut file = sftp.open(path).await.map_err(|e| fault(path, e))?;
    let mut content = Vec::new();
    (&mut file)
        .take(limit)
        .read_to_end(&mut content)
        .await
        .map_err(|e| Error::io(format!("reading {path} in the pixel"), e))?;
    let _ = file.shutdown().await;
    Ok(content)
}

pub async fn write(sftp: &Files, new: &GuestFile) -> Result<()> {
    let path = new.path.as_str();
    let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE;
    let io = |e| Error::io(format!("writing {path} in the pixel"), e);
    let mut file = sftp
        .open_with_flags(path, flags)
        .await
        .map_err(|e| fault(path, e))?;
    // Owner and mode before the content: it is never readable too widely. Two
    // calls: Incus's server mixes the fields up when both come in one.
    let owner = FileAttributes {
        uid: Some(new.owner.uid),
        gid: Some(new.owner.gid),
        ..FileAttributes::empty()
    };
    let mode = FileAttributes {
        permissions: Some(new.mode),
        ..FileAttributes::empty()
    };
    for attributes in [owner, mode] {
        sftp.set_metadata(path, attributes)
            .await
            .map_err(|e| fault(path, e))?;
    }
    if !new.content.is_empty() {
        file.write_all(&new.content).await.map_err(io)?;
    }
    file.shutdown().await.map_err(io)
}

/// Several packets are under way at a time.
pub async fn fill(sftp: &Files, path: &str, mut content: mpsc::Receiver<Bytes>) -> Result<()> {
    let io = |e| Error::io(format!("writing {path} in the pixel"), e);
    let mut file = sftp
        .open_with_flags(path, OpenFlags::WRITE)
        .await
        .map_err(|e| fault(path, e))?;
    sftp.set_timeout(SLOW.as_secs());
    let written = async {
        while let Some(chunk) = content.recv().await {
            file.write_all(&chunk).await?;
        }
        file.shutdown().await
    };
    let written = written.await;
    sftp.set_timeout(TIMEOUT.as_secs());
    written.map_err(io)
}

/// Over what is there, as the system does it. OpenSSH's server refuses that
/// by this request.
pub async fn rename(sftp: &Files, from: &str, to: &str) -> Result<()> {
    sftp.rename(from, to).await.map_err(|e| fault(to, e))
}

pub async fn remove(sftp: &Files, path: &str) -> Result<()> {
    match sftp.remove_file(path).await {
        Err(error) if !missing(&error) => Err(fault(path, error)),
        _ => Ok(()),
    }
}

pub async fn make_dir(sftp: &Files, path: &str) -> Result<()> {
    match sftp.create_dir(path).await {
        Ok(()) => Ok(()),
        Err(error) => match sftp.metadata(path).await {
            Ok(have) if have.is_dir() => Ok(()),
            _ => Err(fault(path, error)),
        },
    }
}

pub async fn symlink(sftp: &Files, path: &str, target: &str) -> Result<()> {
    // Both servers take the two in OpenSSH's order, which is not the one of
    // the standard.
    match sftp.symlink(target, path).await {
        Ok(()) => Ok(()),
        Err(error) => match stat(sftp, path).await {
            Ok(_) => Ok(()),
            Err(_) => Err(fault(path, error)),
        },
    }
}

pub async fn read_link(sftp: &Files, path: &str) -> Result<String> {
    sftp.read_link(path).await.map_err(|e| fault(path, e))
}

pub async fn list(sftp: &Files, path: &str) -> Result<Vec<String>> {
    sftp.left.store(LISTING, Ordering::Relaxed);
    let listed = sftp.read_dir(path).await;
    if sftp.left.swap(u64::MAX, Ordering::Relaxed) == 0 {
        return Err(Error::TooLarge {
            what: format!("the listing of {path} in the pixel"),
            limit: LISTING,
        });
    }
    let entries = listed.map_err(|e| fault(path, e))?;
    Ok(entries.map(|entry| entry.file_name()).collect())
}

pub async fn stat(sftp: &Files, path: &str) -> Result<FileStat> {
    let found = sftp
        .symlink_metadata(path)
        .await
        .map_err(|e| fault(path, e))?;
    let mode = found.permissions.unwrap_or(0);
    Ok(FileStat {
        kind: match mode & 0o170_000 {
            0o100_000 => FileKind::File,
            0o040_000 => FileKind::Directory,
            0o120_000 => FileKind::Symlink,
            _ => FileKind::Other,
        },
        mode: mode & 0o7777,
        owner: Ids {
            uid: found.uid.unwrap_or(0),
            gid: found.gid.unwrap_or(0),
        },
        size: found.size.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INIT: u8 = 1;
    const OPEN_FOLDER: u8 = 11;
    const READ_FOLDER: u8 = 12;

    fn packet(kind: u8, body: &[&[u8]]) -> Vec<u8> {
        let body = body.concat();
        let length = u32::try_from(body.len() + 1).unwrap().to_be_bytes();
        [&length[..], &[kind], &body].concat()
    }

    /// Has a folder of this many packets of names, and then its end.
    async fn serve(mut stream: tokio::io::DuplexStream, packets: u32) -> std::io::Result<()> {
        let mut left = packets;
        loop {
            let length = stream.read_u32().await? as usize;
            let mut asked = vec![0; length];
            stream.read_exact(&mut asked).await?;
            let number = &asked[1..5];
            let answer = match asked[0] {
                INIT => packet(2, &[&3u32.to_be_bytes()]),
                OPEN_FOLDER => packet(102, &[number, &[0, 0, 0, 1], b"h"]),
                READ_FOLDER if left > 0 => {
                    left -= 1;
                    let name = vec![b'x'; 4000];
                    let long = u32::try_from(name.len()).unwrap().to_be_bytes();
                    let entry = [&long[..], &name, &[0; 4], &[0; 4]].concat();
                    packet(104, &[number, &50u32.to_be_bytes(), &entry.repeat(50)])
                }
                READ_FOLDER => packet(101, &[number, &[0, 0, 0, 1], &[0; 8]]),
                _ => packet(101, &[number, &[0; 12]]),
            };
            stream.write_all(&answer).await?;
        }
    }

    async fn listed(packets: u32) -> Result<Vec<String>> {
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(serve(far, packets));
        let files = Files::open(near).await.unwrap();
        list(&files, "/x").await
    }

    #[tokio::test]
    async fn a_folder_without_an_end_is_left() {
        assert_eq!(listed(2).await.unwrap().len(), 100);
        let endless = listed(200).await.unwrap_err();
        assert!(matches!(endless, Error::TooLarge { .. }), "{endless}");
    }
}
