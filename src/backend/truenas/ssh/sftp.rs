//! Files by SFTP, whose server runs inside the pixel: no path leads out of it.

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
    // Before the content: it is never readable too widely.
    let attributes = FileAttributes {
        uid: Some(new.owner.uid),
        gid: Some(new.owner.gid),
        permissions: Some(new.mode),
        ..FileAttributes::empty()
    };
    sftp.set_metadata(path, attributes)
        .await
        .map_err(|e| fault(path, e))?;
    if !new.content.is_empty() {
        file.write_all(&new.content).await.map_err(io)?;
    }
    file.shutdown().await.map_err(io)
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
        Err(error) => match sftp.metadata(path).await {
            Ok(have) if have.is_dir() => Ok(()),
            _ => Err(fault(path, error)),
        },
    }
}

pub(super) async fn symlink(sftp: &SftpSession, path: &str, target: &str) -> Result<()> {
    // OpenSSH takes the two in another order than the standard's.
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
