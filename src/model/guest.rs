//! The guest: commands and files inside a pixel.

use std::collections::BTreeMap;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::capture::{STDOUT, collect_up_to};
use super::error::{Error, Result};

/// Numeric user and group inside the pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
}

impl Ids {
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// A command to run. `argv` reaches the guest's `execve` unchanged.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// Never empty.
    pub argv: Vec<String>,
    pub owner: Ids,
    pub env: BTreeMap<String, String>,
    /// The working directory. If it is missing, a backend may use `/`.
    pub cwd: Option<String>,
    /// Run on a pseudo-terminal of this size; stdout then carries both streams.
    pub tty: Option<TtySize>,
}

impl ExecRequest {
    /// A command of root without a terminal.
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
    /// Sends this signal number to the command.
    Signal(i32),
    Resize(TtySize),
}

/// The caller's ends of a command's streams.
///
/// A writer that fails ends its stream and not the command, which sees a closed
/// pipe. Writers are flushed once, at the end, so they must not delay bytes.
pub struct ExecIo {
    pub stdin: Box<dyn AsyncRead + Send + Unpin>,
    pub stdout: Box<dyn AsyncWrite + Send + Unpin>,
    pub stderr: Box<dyn AsyncWrite + Send + Unpin>,
    pub control: mpsc::Receiver<Control>,
}

/// The exit code of a command: 128 + N if signal N killed it, 127 if it was not
/// found, 126 if it cannot be executed.
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
    /// The beginning of stderr.
    pub stderr: Vec<u8>,
}

impl Output {
    /// The text on stdout; `Error::Guest` if the command failed.
    pub fn into_text(self, command: &str) -> Result<String> {
        if self.status.success() {
            return Ok(String::from_utf8_lossy(&self.stdout).into_owned());
        }
        Err(Error::Guest {
            command: command.to_owned(),
            status: self.status.0,
            stderr: String::from_utf8_lossy(&self.stderr).trim().to_owned(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    pub kind: FileKind,
    /// Permission bits only.
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

/// A file to write.
#[derive(Debug, Clone)]
pub struct GuestFile {
    /// Absolute, inside the guest.
    pub path: String,
    pub content: Vec<u8>,
    /// Permission bits, also applied to an existing file.
    pub mode: u32,
    pub owner: Ids,
}

impl GuestFile {
    /// A file of root.
    pub fn root(path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            content: content.into(),
            mode,
            owner: Ids::ROOT,
        }
    }
}

/// Largest chunk of [`Guest::write_chunks`]. It fits into one packet of every
/// server.
pub const MAX_CHUNK: usize = 255 * 1024;

/// A check that must succeed before a command starts.
pub type Precondition<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// The inside of one pixel.
///
/// File calls work on a running pixel, and on a stopped one if
/// [`Backend::can_access_stopped_files`]; otherwise they fail with
/// `Error::WrongState`. They never follow a link out of the pixel. Paths are
/// absolute.
///
/// [`Backend::can_access_stopped_files`]: super::Backend::can_access_stopped_files
#[async_trait]
pub trait Guest: Send + Sync {
    /// Runs a command to its end and returns its exit status.
    ///
    /// Streams are byte-exact and complete when this returns. A missing exit
    /// status is `Error::Protocol`, never success. A stopped pixel is
    /// `Error::WrongState`. Dropping the future kills the command.
    async fn exec(&self, request: &ExecRequest, io: ExecIo) -> Result<ExitStatus>;

    /// Like [`exec`](Self::exec), for a command that must not start before
    /// `precondition` has succeeded; otherwise its error is returned. If the
    /// server supports it, the command is prepared at the same time.
    async fn exec_admitted(
        &self,
        request: &ExecRequest,
        io: ExecIo,
        precondition: Precondition<'_>,
    ) -> Result<ExitStatus> {
        precondition.await?;
        self.exec(request, io).await
    }

    /// Runs a command without input and collects all of stdout and the beginning
    /// of stderr. Stops the command with `Error::TooLarge` if it prints more than
    /// any command of pixels does.
    async fn output(&self, request: &ExecRequest) -> Result<Output> {
        collect_up_to(self, request, STDOUT).await
    }

    /// Reads the first `limit` bytes of a file. A symlink in the last component
    /// is followed inside the guest. Missing is `Error::NotFound`.
    async fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>>;

    /// Creates or replaces a file; the parent directory must exist.
    async fn write_file(&self, file: &GuestFile) -> Result<()>;

    /// Writes chunks of at most [`MAX_CHUNK`] bytes from the beginning of an
    /// existing file, and changes nothing else about it. Missing is
    /// `Error::NotFound`. After an error, or if the sender is dropped early, some
    /// chunks may be written.
    async fn write_chunks(&self, path: &str, content: mpsc::Receiver<Bytes>) -> Result<()>;

    /// Renames a file in the same filesystem and replaces an existing target.
    async fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Removes a file or symlink. Missing counts as done.
    async fn remove_file(&self, path: &str) -> Result<()>;

    /// Creates a directory with mode 0755; an existing one counts as done.
    async fn make_dir(&self, path: &str) -> Result<()>;

    /// Creates a symlink; an existing entry of that name counts as done.
    async fn symlink(&self, path: &str, target: &str) -> Result<()>;

    /// The target of a symlink, unresolved.
    async fn read_link(&self, path: &str) -> Result<String>;

    /// The names in a directory, in any order. Missing is `Error::NotFound`.
    async fn list_dir(&self, path: &str) -> Result<Vec<String>>;

    /// The metadata of a directory entry. Symlinks are not followed.
    async fn stat(&self, path: &str) -> Result<FileStat>;
}
