//! A multipart/form-data body that streams files, so that an image of any
//! size passes through little memory.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::Stream;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

const CHUNK: usize = 128 << 10;

/// One file of the form.
#[derive(Debug)]
pub struct Part<'a> {
    pub name: &'a str,
    pub filename: &'a str,
    pub path: &'a Path,
}

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// A form of files, framed by `boundary`.
#[derive(Debug)]
pub struct Form {
    boundary: String,
    pieces: VecDeque<Piece>,
}

impl Form {
    /// `boundary` must occur in none of the files.
    pub fn new(boundary: &str, parts: &[Part<'_>]) -> Self {
        let mut pieces = VecDeque::new();
        for (index, part) in parts.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\r\n" };
            let head = format!(
                "{line_end}--{boundary}\r\n\
                 Content-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n",
                part.name, part.filename
            );
            pieces.push_back(Piece::Bytes(head.into_bytes()));
            pieces.push_back(Piece::File(part.path.to_owned()));
        }
        let end = format!("\r\n--{boundary}--\r\n");
        pieces.push_back(Piece::Bytes(end.into_bytes()));
        Self {
            boundary: boundary.to_owned(),
            pieces,
        }
    }

    pub fn content_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    pub fn stream(self) -> impl Stream<Item = io::Result<Vec<u8>>> + Send + 'static {
        futures_util::stream::try_unfold((self.pieces, None), next)
    }
}

type State = (VecDeque<Piece>, Option<File>);

async fn next((mut pieces, mut open): State) -> io::Result<Option<(Vec<u8>, State)>> {
    loop {
        if let Some(mut file) = open.take() {
            let mut chunk = vec![0; CHUNK];
            let read = file.read(&mut chunk).await?;
            if read > 0 {
                chunk.truncate(read);
                return Ok(Some((chunk, (pieces, Some(file)))));
            }
        }
        match pieces.pop_front() {
            None => return Ok(None),
            Some(Piece::Bytes(bytes)) => return Ok(Some((bytes, (pieces, None)))),
            Some(Piece::File(path)) => open = Some(File::open(path).await?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt;

    #[tokio::test]
    async fn files_are_framed_byte_for_byte() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::write(&one, b"first\r\n").unwrap();
        std::fs::write(&two, vec![7u8; CHUNK + 5]).unwrap();
        let form = Form::new(
            "EDGE",
            &[
                Part {
                    name: "metadata",
                    filename: "m.tar.xz",
                    path: &one,
                },
                Part {
                    name: "rootfs",
                    filename: "r.squashfs",
                    path: &two,
                },
            ],
        );
        assert_eq!(form.content_type(), "multipart/form-data; boundary=EDGE");
        let body: Vec<u8> = form.stream().try_concat().await.unwrap();
        let mut expect = b"--EDGE\r\n\
            Content-Disposition: form-data; name=\"metadata\"; filename=\"m.tar.xz\"\r\n\
            Content-Type: application/octet-stream\r\n\r\nfirst\r\n\r\n--EDGE\r\n\
            Content-Disposition: form-data; name=\"rootfs\"; filename=\"r.squashfs\"\r\n\
            Content-Type: application/octet-stream\r\n\r\n"
            .to_vec();
        expect.extend(vec![7u8; CHUNK + 5]);
        expect.extend(b"\r\n--EDGE--\r\n");
        assert_eq!(body, expect);
    }

    #[tokio::test]
    async fn a_missing_file_is_an_error() {
        let part = Part {
            name: "a",
            filename: "a",
            path: Path::new("/nonexistent/a"),
        };
        let body: Result<Vec<u8>, _> = Form::new("E", &[part]).stream().try_concat().await;
        assert_eq!(body.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
