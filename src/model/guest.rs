//! The inside of one pixel: run a command, read and write files.

use std::collections::BTreeMap;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use super::error::Result;

/// Numeric owner inside the pixel.
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
    /// An existing directory; a backend may fall back to `/` when it is missing.
    pub cwd: Option<String>,
    /// Run on a pseudo-terminal of this size; stdout then carries both streams.
    pub tty: Option<TtySize>,
}

impl ExecRequest {
    /// A plain command as root, without a terminal.
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

/// What the caller tells a running command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Deliver this signal number to the command.
    Signal(i32),
    Resize(TtySize),
}

/// The near ends of a command's streams.
///
/// A writer that fails (a reader that went away) ends the transfer of that
/// stream, not the command: the guest sees what a closed pipe would show it.
/// Writers are flushed once, at the end, so they must not hold bytes back.
pub struct ExecIo {
    pub stdin: Box<dyn AsyncRead + Send + Unpin>,
    pub stdout: Box<dyn AsyncWrite + Send + Unpin>,
    pub stderr: Box<dyn AsyncWrite + Send + Unpin>,
    pub control: mpsc::Receiver<Control>,
}

/// How a command ended: its exit code, or 128 + N when signal N killed it,
/// 127 when it does not exist and 126 when it cannot be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(pub i32);

impl ExitStatus {
    pub fn success(self) -> bool {
        self.0 == 0
    }
}

/// What a command printed, for commands that pixels runs for itself.
#[derive(Debug, Clone)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    /// Its beginning.
    pub stderr: Vec<u8>,
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

/// A file to be written whole.
#[derive(Debug, Clone)]
pub struct GuestFile {
    /// Absolute, inside the guest.
    pub path: String,
    pub content: Vec<u8>,
    /// Permission bits, applied also when the file exists.
    pub mode: u32,
    pub owner: Ids,
}

/// What [`Guest::fill_file`] takes at once: one packet, for each server.
pub const MAX_CHUNK: usize = 255 * 1024;

/// What has to be so before a command may begin.
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
    /// Runs a command to its end and returns how it ended.
    ///
    /// Streams are byte-exact and drained before this returns. A missing exit
    /// status is `Error::Protocol`, never success. A stopped pixel is
    /// `Error::WrongState`. Dropping the future kills the command.
    async fn exec(&self, request: &ExecRequest, io: ExecIo) -> Result<ExitStatus>;

    /// Like [`exec`](Self::exec), for a command that must not begin before it
    /// is admitted: a refusal is returned in place of its status. Where the
    /// server can, the command is made ready meanwhile.
    async fn exec_admitted(
        &self,
        request: &ExecRequest,
        io: ExecIo,
        admission: Precondition<'_>,
    ) -> Result<ExitStatus> {
        admission.await?;
        self.exec(request, io).await
    }

    /// Runs a command without input and collects what it prints; what is more
    /// than any script of ours has to say is `Error::TooLarge`.
    async fn output(&self, request: &ExecRequest) -> Result<Output>;

    /// Reads at most `limit` bytes; a symlink in the last component is followed
    /// inside the guest. Missing is `Error::NotFound`.
    async fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>>;

    /// Creates or replaces a file; the parent directory must exist.
    async fn write_file(&self, file: &GuestFile) -> Result<()>;

    /// Writes what comes, in chunks of up to [`FILLING`] bytes, from the
    /// beginning of a file that is there; nothing else about it changes. Missing is `Error::NotFound`. Some of it may have
    /// been written when it fails, or when the sender is dropped early.
    async fn write_chunks(&self, path: &str, content: mpsc::Receiver<Bytes>) -> Result<()>;

    /// Gives a file another name in the same filesystem, in the place of what
    /// is there.
    async fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Removes one file or symlink. Missing counts as done.
    async fn remove_file(&self, path: &str) -> Result<()>;

    /// Creates a directory with mode 0755; an existing one counts as done.
    async fn make_dir(&self, path: &str) -> Result<()>;

    /// Creates a symlink; an existing entry of that name counts as done.
    async fn symlink(&self, path: &str, target: &str) -> Result<()>;

    /// What a symlink leads to, as it says.
    async fn read_link(&self, path: &str) -> Result<String>;

    /// The names in a directory, in no order. Missing is `Error::NotFound`.
    async fn list_dir(&self, path: &str) -> Result<Vec<String>>;

    /// Facts about the entry itself; links are not followed.
    async fn stat(&self, path: &str) -> Result<FileStat>;
}
