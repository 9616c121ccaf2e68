//! A path on the command line: local, in a pixel, or a standard stream.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser, ValueParserFactory};

use crate::exit::Usage;
use crate::model::Name;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathArg {
    /// `-`
    Stream,
    Local(PathBuf),
    /// `NAME:PATH`
    Pixel {
        name: Name,
        path: String,
    },
}

impl PathArg {
    /// Parses `-`, `NAME:PATH`, or a local path. Text before the first colon is
    /// a pixel name if it is a valid name; `./a:b` is a local file.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        let bytes = text.as_encoded_bytes();
        let name = bytes.iter().position(|&byte| byte == b':').and_then(|at| {
            let name = std::str::from_utf8(&bytes[..at]).ok()?;
            Some((name.parse::<Name>().ok()?, at))
        });
        match name {
            None => Ok(Self::Local(text.into())),
            Some((name, at)) => Ok(Self::Pixel {
                name,
                path: std::str::from_utf8(&bytes[at + 1..])
                    .map_err(|_| "a path in a pixel must be UTF-8".to_owned())?
                    .to_owned(),
            }),
        }
    }

    /// Returns the local path. `role` names the argument in the error.
    pub fn into_local(self, role: &str) -> Result<PathBuf, Usage> {
        match self {
            Self::Local(path) => Ok(path),
            Self::Stream => Err(Usage(format!("{role} cannot be -"))),
            Self::Pixel { name, path } => Err(Usage(format!(
                "{role} {name}:{path} is in a pixel; for a local file with a colon write \
                 ./{name}:{path}"
            ))),
        }
    }

    /// Returns the pixel and path. `role` names the argument in the error.
    pub fn into_pixel(self, role: &str) -> Result<(Name, String), Usage> {
        match self {
            Self::Pixel { name, path } => Ok((name, path)),
            _ => Err(Usage(format!(
                "{role} must be NAME:PATH, a path in a pixel"
            ))),
        }
    }
}

impl ValueParserFactory for PathArg {
    type Parser = ValueParser;

    fn value_parser() -> ValueParser {
        ValueParser::new(OsStringValueParser::new().try_map(|text| Self::parse(&text)))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn parse_pixel_needs_name_before_colon() {
        let parse = |text: &str| PathArg::parse(OsStr::new(text)).unwrap();
        assert_eq!(parse("-"), PathArg::Stream);
        assert_eq!(
            parse("px-box:/a:b"),
            PathArg::Pixel {
                name: "box".parse().unwrap(),
                path: "/a:b".into()
            }
        );
        for local in ["box", "./box:x", "/a:b", "A:b", ":x", "..", "a b:c"] {
            assert_eq!(parse(local), PathArg::Local(local.into()), "{local}");
        }
        let raw = OsStr::from_bytes(b"a\xff");
        assert_eq!(PathArg::parse(raw), Ok(PathArg::Local(raw.into())));
        assert!(PathArg::parse(OsStr::from_bytes(b"a:\xff")).is_err());
    }
}
