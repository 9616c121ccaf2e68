//! A guest with the rights of one user of the pixel.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

use super::capture::{STDOUT, collect_up_to, run_with_streams};
use super::{
    Error, ExecIo, ExecRequest, ExitStatus, FileKind, FileStat, Guest, GuestFile, Ids, Output,
    Precondition, Result, Subject,
};

/// Runs all commands of another guest, also those for root, and all file
/// accesses as one user.
///
/// Root cannot safely access files in a directory that a user can change: the
/// user can replace any part of a path with a link between two accesses. With
/// the rights of the user, a link leads only to files that the user can access.
/// The pixel must be running and needs GNU coreutils and findutils.
pub struct UserGuest<'a> {
    guest: Box<dyn Guest + 'a>,
    user: Ids,
}

impl<'a> UserGuest<'a> {
    pub fn new(guest: Box<dyn Guest + 'a>, user: Ids) -> Self {
        Self { guest, user }
    }

    fn as_user(&self, request: &ExecRequest) -> ExecRequest {
        ExecRequest {
            owner: self.user,
            ..request.clone()
        }
    }

    /// Runs a command that accesses `path`. Fails with [`Error::TooLarge`] if
    /// stdout exceeds `limit`.
    async fn run(&self, path: &str, argv: &[&str], limit: usize) -> Result<Vec<u8>> {
        let request = self.as_user(&request(argv));
        check(path, collect_up_to(&*self.guest, &request, limit).await?)
    }

    /// Runs a command that accesses `path` and reads `stdin`.
    async fn run_with(
        &self,
        path: &str,
        argv: &[&str],
        stdin: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<()> {
        let request = self.as_user(&request(argv));
        let output = run_with_streams(&*self.guest, &request, stdin, tokio::io::sink()).await?;
        check(path, output).map(drop)
    }
}

/// Returns a request for a command with English messages.
fn request(argv: &[&str]) -> ExecRequest {
    let english = ["env", "LC_ALL=C"];
    ExecRequest::root(english.iter().chain(argv).copied())
}

/// Returns the stdout of a command that accesses `path`, or its failure.
fn check(path: &str, output: Output) -> Result<Vec<u8>> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let is_missing = [": No such file or directory", ": Not a directory"]
        .iter()
        .any(|message| stderr.trim().ends_with(message));
    Err(match is_missing {
        true => Error::NotFound(Subject::Path(path.to_owned())),
        false => Error::guest(format!("access to {path}"), output.status, &output.stderr),
    })
}

#[async_trait]
impl Guest for UserGuest<'_> {
    async fn exec(&self, request: &ExecRequest, io: ExecIo) -> Result<ExitStatus> {
        self.guest.exec(&self.as_user(request), io).await
    }

    async fn exec_admitted(
        &self,
        request: &ExecRequest,
        io: ExecIo,
        precondition: Precondition<'_>,
    ) -> Result<ExitStatus> {
        let request = self.as_user(request);
        self.guest.exec_admitted(&request, io, precondition).await
    }

    async fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let (file, count) = (format!("if={path}"), format!("count={limit}"));
        // `nonblock`: a pipe must not block the command.
        let flags = "iflag=nonblock,count_bytes";
        let argv = ["dd", &file, &count, flags, "bs=128K", "status=none"];
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.run(path, &argv, limit).await
    }

    async fn write_file(&self, file: &GuestFile) -> Result<()> {
        let path = file.path.as_str();
        let length = file.content.len().to_string();
        let mode = format!("{:o}", file.mode);
        let owner = format!("{}:{}", file.owner.uid, file.owner.gid);
        let script = include_str!("guest/write-file.sh");
        let argv = ["sh", "-c", script, "write", path, &length, &mode, &owner];
        let content = std::io::Cursor::new(file.content.clone());
        self.run_with(path, &argv, content).await
    }

    async fn write_chunks(&self, path: &str, content: mpsc::Receiver<Bytes>) -> Result<()> {
        let file = format!("of={path}");
        let argv = [
            "dd",
            &file,
            "conv=notrunc,nocreat",
            "iflag=fullblock",
            "bs=128K",
            "status=none",
        ];
        let chunks = stream::unfold(content, |mut content| async move {
            let chunk = content.recv().await?;
            Some((Ok::<_, std::io::Error>(chunk), content))
        });
        let content = StreamReader::new(chunks.boxed());
        self.run_with(path, &argv, content).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let argv = ["mv", "-fT", "--", from, to];
        self.run(to, &argv, STDOUT).await.map(drop)
    }

    async fn remove_file(&self, path: &str) -> Result<()> {
        let argv = ["rm", "-f", "--", path];
        self.run(path, &argv, STDOUT).await.map(drop)
    }

    /// Also creates missing parents.
    async fn make_dir(&self, path: &str) -> Result<()> {
        let argv = ["mkdir", "-p", "-m", "755", "--", path];
        self.run(path, &argv, STDOUT).await.map(drop)
    }

    async fn symlink(&self, path: &str, target: &str) -> Result<()> {
        let argv = ["ln", "-sT", "--", target, path];
        match self.run(path, &argv, STDOUT).await {
            Err(error) if self.stat(path).await.is_err() => Err(error),
            _ => Ok(()),
        }
    }

    async fn read_link(&self, path: &str) -> Result<String> {
        let argv = ["readlink", "-nv", "--", path];
        let target = self.run(path, &argv, STDOUT).await?;
        Ok(String::from_utf8_lossy(&target).into_owned())
    }

    async fn list_dir(&self, path: &str) -> Result<Vec<String>> {
        let below = ["-mindepth", "1", "-maxdepth", "1", "-printf", r"%f\0"];
        let argv = [&["find", path][..], &below].concat();
        let names = self.run(path, &argv, STDOUT).await?;
        let names = String::from_utf8_lossy(&names);
        Ok(names.split_terminator('\0').map(str::to_owned).collect())
    }

    async fn stat(&self, path: &str) -> Result<FileStat> {
        let argv = ["stat", "-c", "%f %u %g %s", "--", path];
        let facts = self.run(path, &argv, STDOUT).await?;
        let facts = String::from_utf8_lossy(&facts);
        parse_stat(&facts)
            .ok_or_else(|| Error::Protocol(format!("unexpected output of stat: {facts:?}")))
    }
}

/// Parses the line `MODE UID GID SIZE`, with the mode in hexadecimal digits.
fn parse_stat(line: &str) -> Option<FileStat> {
    let fields: Vec<&str> = line.trim_end().split(' ').collect();
    let [mode, uid, gid, size] = fields[..] else {
        return None;
    };
    let mode = u32::from_str_radix(mode, 16).ok()?;
    Some(FileStat {
        kind: FileKind::from_mode(mode),
        mode: mode & 0o7777,
        owner: Ids {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
        },
        size: size.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_line_is_parsed() {
        let stat = parse_stat("81a4 1000 7 3000000\n").unwrap();
        assert_eq!((stat.kind, stat.mode), (FileKind::File, 0o644));
        assert_eq!((stat.owner.uid, stat.owner.gid), (1000, 7));
        assert_eq!(stat.size, 3_000_000);
        assert_eq!(parse_stat("41ed 0 0 1").unwrap().kind, FileKind::Directory);
        assert_eq!(parse_stat("a1ff 0 0 1").unwrap().kind, FileKind::Symlink);
        for bad in ["", "81a4 0 0", "81a4 0 0 1 2", "x 0 0 1", "81a4 -1 0 1"] {
            assert!(parse_stat(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn missing_path_is_not_found() {
        let failed = |path: &str, stderr: &str| {
            let output = Output {
                status: ExitStatus(1),
                stdout: Vec::new(),
                stderr: stderr.into(),
            };
            check(path, output).unwrap_err()
        };
        for text in ["No such file or directory", "Not a directory"] {
            let error = failed("/a/b", &format!("stat: cannot statx '/a/b': {text}\n"));
            assert!(error.is_not_found(), "{error}");
        }
        let error = failed("/a", "stat: cannot statx '/a': Permission denied\n");
        let expected = "\"access to /a\" failed in the pixel with exit code 1: \
                        stat: cannot statx '/a': Permission denied";
        assert_eq!(error.to_string(), expected);
    }
}
