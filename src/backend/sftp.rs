//! Guest files over SFTP version 3, for both backends. The server is Incus,
//! which confines paths to the instance's root filesystem, or OpenSSH inside a
//! TrueNAS instance. In both cases, paths cannot lead out of the pixel.

use std::ops::Deref;
use std::time::Duration;

use bytes::Bytes;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::client::{Config, SftpSession};
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio_util::io::InspectReader;

use crate::model::{Error, FileKind, FileStat, GuestFile, Ids, Result, Subject};

/// Maximum size of a directory listing in bytes: about ten thousand names. The
/// pixel controls the number of names.
const MAX_LISTING: u64 = 16 * 1024 * 1024;

/// Deadline of a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline of a request with a chunk of a large file, for slow connections.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum packet size of the Incus server, including the header. OpenSSH
/// announces its own, slightly lower limit.
const MAX_PACKET: u32 = 256 * 1024;

/// An SFTP session. All answers except listings have a requested length or are
/// a single packet.
pub struct Files {
    session: SftpSession,
    /// Number of bytes received from the server.
    received: watch::Sender<u64>,
}

impl Files {
    /// Starts an SFTP session on a connection to a server.
    pub async fn open<S>(stream: S) -> Result<Self, SftpError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let received = watch::Sender::new(0);
        let counter = received.clone();
        let stream = InspectReader::new(stream, move |data: &[u8]| {
            counter.send_modify(|received| *received += data.len() as u64);
        });
        let config = Config {
            max_write_packet_len: MAX_PACKET,
            request_timeout_secs: TIMEOUT.as_secs(),
            ..Config::default()
        };
        let session = SftpSession::new_with_config(stream, config).await?;
        Ok(Self { session, received })
    }
}

impl Deref for Files {
    type Target = SftpSession;

    fn deref(&self) -> &SftpSession {
        &self.session
    }
}

fn file_error(path: &str, error: SftpError) -> Error {
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

fn is_missing(error: &SftpError) -> bool {
    matches!(error, SftpError::Status(status) if status.status_code == StatusCode::NoSuchFile)
}

/// Implements [`Guest::read_file`](crate::model::Guest::read_file).
pub async fn read(sftp: &Files, path: &str, limit: u64) -> Result<Vec<u8>> {
    let mut file = sftp.open(path).await.map_err(|e| file_error(path, e))?;
    let mut content = Vec::new();
    (&mut file)
        .take(limit)
        .read_to_end(&mut content)
        .await
        .map_err(|e| Error::io(format!("reading {path} in the pixel"), e))?;
    let _ = file.shutdown().await;
    Ok(content)
}

/// Implements [`Guest::write_file`](crate::model::Guest::write_file).
pub async fn write(sftp: &Files, new: &GuestFile) -> Result<()> {
    let path = new.path.as_str();
    let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE;
    let io = |e| Error::io(format!("writing {path} in the pixel"), e);
    let mut file = sftp
        .open_with_flags(path, flags)
        .await
        .map_err(|e| file_error(path, e))?;
    // Owner and mode are set first, so that no other user can read the content. In
    // two requests, because the Incus server confuses the fields of a single request.
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
            .map_err(|e| file_error(path, e))?;
    }
    if !new.content.is_empty() {
        file.write_all(&new.content).await.map_err(io)?;
    }
    file.shutdown().await.map_err(io)
}

/// Implements [`Guest::write_chunks`](crate::model::Guest::write_chunks). Sends
/// several packets before waiting for an answer.
pub async fn write_chunks(
    sftp: &Files,
    path: &str,
    mut content: mpsc::Receiver<Bytes>,
) -> Result<()> {
    let io = |e| Error::io(format!("writing {path} in the pixel"), e);
    let mut file = sftp
        .open_with_flags(path, OpenFlags::WRITE)
        .await
        .map_err(|e| file_error(path, e))?;
    sftp.set_timeout(CHUNK_TIMEOUT.as_secs());
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

/// Implements [`Guest::rename`](crate::model::Guest::rename) for the Incus
/// server. The OpenSSH server fails this request if the target exists.
pub async fn rename(sftp: &Files, from: &str, to: &str) -> Result<()> {
    sftp.rename(from, to).await.map_err(|e| file_error(to, e))
}

/// Implements [`Guest::remove_file`](crate::model::Guest::remove_file).
pub async fn remove(sftp: &Files, path: &str) -> Result<()> {
    match sftp.remove_file(path).await {
        Err(error) if !is_missing(&error) => Err(file_error(path, error)),
        _ => Ok(()),
    }
}

/// Implements [`Guest::make_dir`](crate::model::Guest::make_dir).
pub async fn make_dir(sftp: &Files, path: &str) -> Result<()> {
    match sftp.create_dir(path).await {
        Ok(()) => Ok(()),
        Err(error) => match sftp.metadata(path).await {
            Ok(existing) if existing.is_dir() => Ok(()),
            _ => Err(file_error(path, error)),
        },
    }
}

/// Implements [`Guest::symlink`](crate::model::Guest::symlink).
pub async fn symlink(sftp: &Files, path: &str, target: &str) -> Result<()> {
    // Both servers expect the arguments in OpenSSH's order, which differs from the
    // order in the standard.
    match sftp.symlink(target, path).await {
        Ok(()) => Ok(()),
        Err(error) => match stat(sftp, path).await {
            Ok(_) => Ok(()),
            Err(_) => Err(file_error(path, error)),
        },
    }
}

/// Implements [`Guest::read_link`](crate::model::Guest::read_link).
pub async fn read_link(sftp: &Files, path: &str) -> Result<String> {
    sftp.read_link(path).await.map_err(|e| file_error(path, e))
}

/// Implements [`Guest::list_dir`](crate::model::Guest::list_dir). Fails with
/// `Error::TooLarge` if the listing exceeds the limit.
pub async fn list(sftp: &Files, path: &str) -> Result<Vec<String>> {
    let mut received = sftp.received.subscribe();
    let limit = *received.borrow() + MAX_LISTING;
    let listed = tokio::select! {
        biased;
        _ = received.wait_for(|received| *received > limit) => {
            return Err(Error::TooLarge {
                what: format!("the listing of {path} in the pixel"),
                limit: MAX_LISTING,
            });
        }
        listed = sftp.read_dir(path) => listed,
    };
    let entries = listed.map_err(|e| file_error(path, e))?;
    Ok(entries.map(|entry| entry.file_name()).collect())
}

/// Implements [`Guest::stat`](crate::model::Guest::stat).
pub async fn stat(sftp: &Files, path: &str) -> Result<FileStat> {
    let found = sftp
        .symlink_metadata(path)
        .await
        .map_err(|e| file_error(path, e))?;
    let mode = found.permissions.unwrap_or(0);
    Ok(FileStat {
        kind: FileKind::from_mode(mode),
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
    const OPEN_DIRECTORY: u8 = 11;
    const READ_DIRECTORY: u8 = 12;

    fn packet(kind: u8, body: &[&[u8]]) -> Vec<u8> {
        let body = body.concat();
        let length = u32::try_from(body.len() + 1).unwrap().to_be_bytes();
        [&length[..], &[kind], &body].concat()
    }

    /// Serves a directory with a listing of `packets` packets.
    async fn serve(mut stream: tokio::io::DuplexStream, packets: u32) -> std::io::Result<()> {
        let mut left = packets;
        loop {
            let length = stream.read_u32().await? as usize;
            let mut request = vec![0; length];
            stream.read_exact(&mut request).await?;
            let number = &request[1..5];
            let answer = match request[0] {
                INIT => packet(2, &[&3u32.to_be_bytes()]),
                OPEN_DIRECTORY => packet(102, &[number, &[0, 0, 0, 1], b"h"]),
                READ_DIRECTORY if left > 0 => {
                    left -= 1;
                    let name = vec![b'x'; 4000];
                    let long = u32::try_from(name.len()).unwrap().to_be_bytes();
                    let entry = [&long[..], &name, &[0; 4], &[0; 4]].concat();
                    packet(104, &[number, &50u32.to_be_bytes(), &entry.repeat(50)])
                }
                READ_DIRECTORY => packet(101, &[number, &[0, 0, 0, 1], &[0; 8]]),
                _ => packet(101, &[number, &[0; 12]]),
            };
            stream.write_all(&answer).await?;
        }
    }

    async fn list_packets(packets: u32) -> Result<Vec<String>> {
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(serve(far, packets));
        let files = Files::open(near).await.unwrap();
        list(&files, "/x").await
    }

    #[tokio::test]
    async fn listing_stops_at_the_limit() {
        assert_eq!(list_packets(2).await.unwrap().len(), 100);
        let endless = list_packets(200).await.unwrap_err();
        assert!(matches!(endless, Error::TooLarge { .. }), "{endless}");
    }
}
