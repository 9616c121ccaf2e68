//! SFTP over the daemon's upgraded connection: files of a running or a
//! stopped instance, confined to its root filesystem by the daemon.

use std::time::Duration;

use russh_sftp::client::SftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Client, encode};
use super::failure::Failure;
use crate::sandbox::{Error, FileKind, FileStat, GuestFile, Owner, Result, Subject};

/// For the daemon to mount the instance's disk and start its file server.
const OPENING: Duration = Duration::from_secs(30);
const HEADER_LIMIT: usize = 16 * 1024;

/// Opens a session; `Failure::Api` 404 when the instance is missing.
pub(super) async fn open(client: &Client, instance: &str) -> Result<SftpSession, Failure> {
    let attempt = async {
        let transport = client.transport();
        let mut stream = transport.connect().await?;
        let lost = |e: &std::io::Error| Failure::connection(client.endpoint(), e);
        let path = client.scoped(&format!("/1.0/instances/{}/sftp", encode(instance)));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: sftp\r\nConnection: Upgrade\r\n\r\n",
            transport.host()
        );
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(|e| lost(&e))?;
        stream.flush().await.map_err(|e| lost(&e))?;
        let mut header = Vec::new();
        // Byte by byte: what follows the header belongs to SFTP.
        while !header.ends_with(b"\r\n\r\n") {
            if header.len() > HEADER_LIMIT {
                return Err(Failure::Protocol("endless answer header".into()));
            }
            header.push(stream.read_u8().await.map_err(|e| lost(&e))?);
        }
        let status = status_of(&header)?;
        if status != 101 {
            let mut rest = Vec::new();
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_buf(&mut rest)).await;
            let message = serde_json::from_slice::<super::wire::Envelope>(&rest)
                .map_or_else(|_| format!("HTTP status {status}"), |e| e.error);
            return Err(Failure::Api {
                code: status,
                message,
            });
        }
        SftpSession::new(stream)
            .await
            .map_err(|e| Failure::Protocol(format!("sftp: {e}")))
    };
    tokio::time::timeout(OPENING, attempt)
        .await
        .unwrap_or_else(|_| {
            Err(Failure::TimedOut {
                doing: "opening the pixel's files".into(),
                after: OPENING,
            })
        })
}

pub(super) fn status_of(header: &[u8]) -> Result<u16, Failure> {
    std::str::from_utf8(header)
        .ok()
        .and_then(|text| text.split_whitespace().nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| Failure::Protocol("no HTTP status line".into()))
}

fn fault(path: &str, error: SftpError) -> Error {
    match error {
        SftpError::Status(status) => match status.status_code {
            StatusCode::NoSuchFile => Error::NotFound(Subject::Path(path.to_owned())),
            _ => Error::Server {
                code: 500,
                message: format!("{path}: {}", status.error_message),
            },
        },
        SftpError::Timeout => Error::TimedOut {
            doing: format!("access to {path}"),
            after: Duration::from_secs(10),
        },
        other => Error::Unreachable {
            endpoint: "the pixel's files".into(),
            reason: other.to_string(),
        },
    }
}

fn missing(error: &SftpError) -> bool {
    matches!(error, SftpError::Status(status) if status.status_code == StatusCode::NoSuchFile)
}

pub(super) async fn read(sftp: &SftpSession, path: &str, limit: u64) -> Result<Vec<u8>> {
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

pub(super) async fn write(sftp: &SftpSession, new: &GuestFile) -> Result<()> {
    let path = new.path.as_str();
    let flags = OpenFlags::CREATE | OpenFlags::TRUNCATE | OpenFlags::WRITE;
    let io = |e| Error::io(format!("writing {path} in the pixel"), e);
    let mut file = sftp
        .open_with_flags(path, flags)
        .await
        .map_err(|e| fault(path, e))?;
    // Owner and mode before the content: it is never readable too widely. Two
    // calls: the daemon's server mixes the fields up when both come in one.
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

pub(super) async fn rename(sftp: &SftpSession, from: &str, to: &str) -> Result<()> {
    // The daemon's server renames as the system does: over what is there.
    sftp.rename(from, to).await.map_err(|e| fault(to, e))
}

pub(super) async fn remove(sftp: &SftpSession, path: &str) -> Result<()> {
    match sftp.remove_file(path).await {
        Err(error) if !missing(&error) => Err(fault(path, error)),
        _ => Ok(()),
    }
}

pub(super) async fn make_dir(sftp: &SftpSession, path: &str) -> Result<()> {
    match sftp.create_dir(path).await {
        Ok(()) => Ok(()),
        Err(error) => match stat(sftp, path).await {
            Ok(have) if have.kind == FileKind::Directory => Ok(()),
            _ => Err(fault(path, error)),
        },
    }
}

pub(super) async fn symlink(sftp: &SftpSession, path: &str, target: &str) -> Result<()> {
    // The daemon's server takes the two in OpenSSH's order, which is not the
    // one of the standard.
    match sftp.symlink(target, path).await {
        Ok(()) => Ok(()),
        Err(error) => match stat(sftp, path).await {
            Ok(_) => Ok(()),
            Err(_) => Err(fault(path, error)),
        },
    }
}

pub(super) async fn read_link(sftp: &SftpSession, path: &str) -> Result<String> {
    sftp.read_link(path).await.map_err(|e| fault(path, e))
}

pub(super) async fn list(sftp: &SftpSession, path: &str) -> Result<Vec<String>> {
    let entries = sftp.read_dir(path).await.map_err(|e| fault(path, e))?;
    Ok(entries.map(|entry| entry.file_name()).collect())
}

pub(super) async fn stat(sftp: &SftpSession, path: &str) -> Result<FileStat> {
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
        owner: Owner {
            uid: found.uid.unwrap_or(0),
            gid: found.gid.unwrap_or(0),
        },
        size: found.size.unwrap_or(0),
    })
}
