//! Files by SFTP, version 3, as both backends have it: the one's server is the
//! daemon's and confines itself to the root filesystem of the instance, the
//! other's is OpenSSH's and runs inside. No path leads out of the pixel.

use std::time::Duration;

use russh_sftp::client::SftpSession;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::sandbox::{Error, FileKind, FileStat, GuestFile, Owner, Result, Subject};

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

pub async fn read(sftp: &SftpSession, path: &str, limit: u64) -> Result<Vec<u8>> {
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

pub async fn write(sftp: &SftpSession, new: &GuestFile) -> Result<()> {
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

/// Over what is there, as the system does it. OpenSSH's server refuses that
/// by this request.
pub async fn rename(sftp: &SftpSession, from: &str, to: &str) -> Result<()> {
    sftp.rename(from, to).await.map_err(|e| fault(to, e))
}

pub async fn remove(sftp: &SftpSession, path: &str) -> Result<()> {
    match sftp.remove_file(path).await {
        Err(error) if !missing(&error) => Err(fault(path, error)),
        _ => Ok(()),
    }
}

pub async fn make_dir(sftp: &SftpSession, path: &str) -> Result<()> {
    match sftp.create_dir(path).await {
        Ok(()) => Ok(()),
        Err(error) => match sftp.metadata(path).await {
            Ok(have) if have.is_dir() => Ok(()),
            _ => Err(fault(path, error)),
        },
    }
}

pub async fn symlink(sftp: &SftpSession, path: &str, target: &str) -> Result<()> {
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

pub async fn read_link(sftp: &SftpSession, path: &str) -> Result<String> {
    sftp.read_link(path).await.map_err(|e| fault(path, e))
}

pub async fn list(sftp: &SftpSession, path: &str) -> Result<Vec<String>> {
    let entries = sftp.read_dir(path).await.map_err(|e| fault(path, e))?;
    Ok(entries.map(|entry| entry.file_name()).collect())
}

pub async fn stat(sftp: &SftpSession, path: &str) -> Result<FileStat> {
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
