//! The inside of an instance: its files, and commands that handlers of the test
//! answer.

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::state::{Entry, Files, State, Stored};
use super::{FakeBackend, not_in_the_fake};
use crate::model::{
    Error, ExecIo, ExecRequest, ExitStatus, FileKind, FileStat, Guest, GuestFile, Ids, Name,
    Result, STOPPED, Status, Subject,
};

/// The guest of one instance of a [`FakeBackend`].
pub(super) struct FakeGuest<'a> {
    pub(super) backend: &'a FakeBackend,
    pub(super) name: &'a Name,
}

impl FakeGuest<'_> {
    async fn files<T>(
        &self,
        call: &str,
        path: &str,
        effect: impl FnOnce(&mut Files, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        assert!(path.starts_with('/'), "{path:?} is not absolute");
        let (line, path) = (format!("{call} {} {path}", self.name), path.to_owned());
        let effect = move |stored: &mut Stored| effect(&mut stored.files, &path);
        self.backend.call_on(line, self.name, effect).await
    }
}

#[async_trait]
impl Guest for FakeGuest<'_> {
    async fn exec(&self, request: &ExecRequest, mut io: ExecIo) -> Result<ExitStatus> {
        let (name, argv) = (self.name.clone(), request.argv.join(" "));
        let line = format!("exec {name} {argv}");
        let running = move |state: &mut State| match state.get(&name)?.instance.status {
            Status::Running => Ok(state.handlers.clone()),
            _ => Err(Error::WrongState {
                subject: Subject::pixel(&name),
                state: STOPPED.into(),
            }),
        };
        let handlers = self.backend.call(line, running).await?;
        let mut handlers = handlers.iter().rev();
        let output = handlers.find_map(|handler| handler(self.name.as_str(), &argv));
        let Some(output) = output else {
            panic!("no answer to {:?} in {}", request.argv, self.name);
        };
        let (out, err) = (&output.stdout, &output.stderr);
        // A write error ends only its stream and not the command.
        let _ = tokio::join!(io.stdout.write_all(out), io.stderr.write_all(err));
        let _ = tokio::join!(io.stdout.flush(), io.stderr.flush());
        Ok(output.status)
    }

    async fn read_file(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let read = move |files: &mut Files, path: &str| match files.get(path) {
            Some(Entry::File(file)) => {
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                Ok(file.content.iter().copied().take(limit).collect())
            }
            Some(_) => Err(refused(path, "is not a file")),
            None => Err(missing(path)),
        };
        self.files("read_file", path, read).await
    }

    async fn write_file(&self, file: &GuestFile) -> Result<()> {
        let new = file.clone();
        let write = |files: &mut Files, path: &str| {
            ensure_writable(files, path)?;
            files.insert(path.to_owned(), Entry::File(new));
            Ok(())
        };
        self.files("write_file", &file.path, write).await
    }

    async fn write_chunks(&self, _: &str, _: mpsc::Receiver<Bytes>) -> Result<()> {
        not_in_the_fake("write_chunks")
    }

    async fn rename(&self, _: &str, _: &str) -> Result<()> {
        not_in_the_fake("rename")
    }

    async fn remove_file(&self, path: &str) -> Result<()> {
        let remove = |files: &mut Files, path: &str| match files.get(path) {
            Some(Entry::Directory) => Err(refused(path, "is a directory")),
            _ => {
                files.remove(path);
                Ok(())
            }
        };
        self.files("remove_file", path, remove).await
    }

    async fn make_dir(&self, path: &str) -> Result<()> {
        let make = |files: &mut Files, path: &str| match files.get(path) {
            Some(Entry::Directory) => Ok(()),
            Some(_) => Err(refused(path, "file exists")),
            None => {
                ensure_writable(files, path)?;
                files.insert(path.to_owned(), Entry::Directory);
                Ok(())
            }
        };
        self.files("make_dir", path, make).await
    }

    async fn symlink(&self, path: &str, target: &str) -> Result<()> {
        let target = target.to_owned();
        let link = |files: &mut Files, path: &str| {
            if !files.contains_key(path) {
                ensure_writable(files, path)?;
                files.insert(path.to_owned(), Entry::Symlink(target));
            }
            Ok(())
        };
        self.files("symlink", path, link).await
    }

    async fn read_link(&self, path: &str) -> Result<String> {
        let read = |files: &mut Files, path: &str| match files.get(path) {
            Some(Entry::Symlink(target)) => Ok(target.clone()),
            Some(_) => Err(refused(path, "is not a symbolic link")),
            None => Err(missing(path)),
        };
        self.files("read_link", path, read).await
    }

    async fn list_dir(&self, _: &str) -> Result<Vec<String>> {
        not_in_the_fake("list_dir")
    }

    async fn stat(&self, path: &str) -> Result<FileStat> {
        let stat = |files: &mut Files, path: &str| {
            let (kind, mode, owner, size) = match files.get(path) {
                Some(Entry::File(file)) => {
                    let size = file.content.len() as u64;
                    (FileKind::File, file.mode, file.owner, size)
                }
                Some(Entry::Directory) => (FileKind::Directory, 0o755, Ids::ROOT, 0),
                Some(Entry::Symlink(_)) => (FileKind::Symlink, 0o777, Ids::ROOT, 0),
                None => return Err(missing(path)),
            };
            Ok(FileStat {
                kind,
                mode,
                owner,
                size,
            })
        };
        self.files("stat", path, stat).await
    }
}

fn missing(path: &str) -> Error {
    Error::NotFound(Subject::Path(path.to_owned()))
}

fn refused(path: &str, reason: &str) -> Error {
    Error::Server {
        code: 0,
        message: format!("{path}: {reason}"),
    }
}

/// Fails unless a file at `path` can be created or replaced.
fn ensure_writable(files: &Files, path: &str) -> Result<()> {
    let (parent, _) = path.rsplit_once('/').unwrap_or_default();
    let parent = if parent.is_empty() { "/" } else { parent };
    match (files.get(parent), files.get(path)) {
        (_, Some(Entry::Symlink(_))) => not_in_the_fake("write through a symlink"),
        (_, Some(Entry::Directory)) => Err(refused(path, "is a directory")),
        (Some(Entry::Directory), _) => Ok(()),
        (Some(_), _) => Err(refused(parent, "not a directory")),
        (None, _) => Err(missing(path)),
    }
}
