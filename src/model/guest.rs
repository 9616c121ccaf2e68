//! The guest API: runs commands and accesses files inside a pixel.

use std::collections::BTreeMap;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::capture::{STDOUT, collect_up_to};
use super::error::{Error, Result};

/// Numeric user and group ids inside the pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
}

impl Ids {
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// A command to run. The guest's `execve` receives `argv` unchanged.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// The program and its arguments. This list must not be empty.
    pub argv: Vec<String>,
    pub owner: Ids,
    /// The environment. All users of the server can read the values.
    pub env: BTreeMap<String, String>,
    /// The working directory. A backend may use `/` if the directory is missing.
    pub cwd: Option<String>,
    /// Size of the pseudo-terminal. On a terminal, stdout contains both streams.
    pub tty: Option<TtySize>,
}

impl ExecRequest {
    /// Creates a request to run a command as root without a terminal.
    pub fn root<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            owner: Ids::ROOT,
            env: BTreeMap::new(),
            cwd: None,
            tty: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtySize {
    pub columns: u16,
    pub rows: u16,
}

/// A message to a running command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Sends a signal to the command, by signal number.
    Signal(i32),
    Resize(TtySize),
}

/// The streams of a command, as the caller's readers and writers.
///
/// If a writer fails, its stream ends and the command sees a closed pipe, but
/// continues. Writers are flushed only at the end, so they must not delay bytes.
pub struct ExecIo {
    pub stdin: Box<dyn AsyncRead + Send + Unpin>,
    pub stdout: Box<dyn AsyncWrite + Send + Unpin>,
    pub stderr: Box<dyn AsyncWrite + Send + Unpin>,
    pub control: mpsc::Receiver<Control>,
}

/// The exit code of a command: 128 + N if killed by signal N, 127 if the
/// command was not found, 126 if the command is not executable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(pub i32);

impl ExitStatus {
    pub fn success(self) -> bool {
        self.0 == 0
    }
}

/// The output of a command that pixels runs for its own purposes.
#[derive(Debug, Clone)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    /// The first bytes of stderr.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Returns stdout as text. Fails with `Error::Guest` if the command failed.
    pub fn into_text(self, command: &str) -> Result<String> {
        if self.status.success() {
            return Ok(String::from_utf8_lossy(&self.stdout).into_owned());
        }
        Err(Error::guest(command, self.status, &self.stderr))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    pub kind: FileKind,
    /// The permission bits of the mode.
    pub mode: u32,
    pub owner: Ids,
    pub size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Other,
}

impl FileKind {
    /// Returns the kind from the mode that `stat` returns.
    pub fn from_mode(mode: u32) -> Self {
        match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Directory,
            0o120_000 => Self::Symlink,
            _ => Self::Other,
        }
    }
}

/// A file to write.
#[derive(Debug, Clone)]
pub struct GuestFile {
    /// The absolute path inside the guest.
    pub path: String,
    pub content: Vec<u8>,
    /// The permission bits, which also replace the bits of an existing file.
    pub mode: u32,
    pub owner: Ids,
}

impl GuestFile {
    /// Creates a file with root as its owner.
    pub fn root(path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            content: content.into(),
            mode,
            owner: Ids::ROOT,
        }
    }
}

/// Maximum size of a [`Guest::write_chunks`] chunk, which fits into one packet
/// of every server.
pub const MAX_CHUNK: usize = 255 * 1024;

/// A check that must succeed before a command starts.
pub type Precondition<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// Access to the inside of a pixel.
///
/// File methods fail with `Error::WrongState` for a stopped pixel, unless
/// [`Backend::can_access_stopped_files`] returns true. File methods never follow a
/// link out of the pixel. Paths must be absolute.
///
/// [`Backend::can_access_stopped_files`]: super::Backend::can_access_stopped_files
#[async_trait]
pub trait Guest: Send + Sync {
    /// Runs a command until it exits, and returns the exit status.
    ///
    /// Streams are byte-exact and complete when this method returns. A missing exit
    /// status is `Error::Protocol`, never success. Fails with `Error::WrongState`
    /// if the pixel is stopped. Dropping the future kills the command.
    async fn exec(&self, request: &ExecRequest, io: ExecIo) -> Result<ExitStatus>;

    /// Like [`exec`](Self::exec), but starts the command only after `precondition`
    /// has succeeded, and otherwise returns the error of `precondition`. Prepares
    /// the command in the meantime if the server supports that.
    async fn exec_admitted(
        &self,
        request: &ExecRequest,
        io: ExecIo,
        precondition: Precondition<'_>,
    ) -> Result<ExitStatus> {
        precondition.await?;
        self.exec(request, io).await
    }

    /// Runs a command without input. Returns stdout and the first bytes of stderr.
    /// Stops the command and fails with `Error::TooLarge` if stdout exceeds the
    /// limit for pixels' own commands.
    async fn output(&self, request: &ExecRequest) -> Result<Output> {
        collect_up_to(self, request, STDOUT).await
    }

    /// Reads the first `limit` bytes of a file. Follows a symlink in the last path
    /// component inside the guest. Fails with `Error::NotFound` if the file is missing.
    async fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>>;

    /// Creates or replaces a file. The parent directory must exist.
    async fn write_file(&self, file: &GuestFile) -> Result<()>;

    /// Writes chunks of at most [`MAX_CHUNK`] bytes from the beginning of an
    /// existing file, and changes nothing else about the file. Fails with
    /// `Error::NotFound` if the file is missing. After an error, or if the sender is
    /// dropped early, the file may contain some of the chunks.
    async fn write_chunks(&self, path: &str, content: mpsc::Receiver<Bytes>) -> Result<()>;

    /// Renames a file within a filesystem. Replaces an existing target.
    async fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Deletes a file or symlink. Succeeds if the path does not exist.
    async fn remove_file(&self, path: &str) -> Result<()>;

    /// Creates a directory with mode 0755. Succeeds if the directory exists.
    async fn make_dir(&self, path: &str) -> Result<()>;

    /// Creates a symlink. Succeeds if an entry with that name exists.
    async fn symlink(&self, path: &str, target: &str) -> Result<()>;

    /// Returns the target of a symlink without resolving it.
    async fn read_link(&self, path: &str) -> Result<String>;

    /// Lists a directory, in any order. Fails with `Error::NotFound` if missing.
    async fn list_dir(&self, path: &str) -> Result<Vec<String>>;

    /// Returns the metadata of a directory entry. Does not follow symlinks.
    async fn stat(&self, path: &str) -> Result<FileStat>;
}
