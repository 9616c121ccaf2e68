//! Where something is: here, in a pixel, or on our own streams.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::{TypedValueParser, ValueParserFactory};

use crate::exit::Usage;
use crate::model::Name;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathArg {
    /// `-`
    Stream,
    Here(PathBuf),
    /// `NAME:PATH`
    Pixel {
        name: Name,
        path: String,
    },
}

impl PathArg {
    /// What stands before the first colon makes it a pixel when it can be the
    /// name of one; `./a:b` is always a file here.
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
            None => Ok(Self::Here(text.into())),
            Some((name, at)) => Ok(Self::Pixel {
                name,
                path: std::str::from_utf8(&bytes[at + 1..])
                    .map_err(|_| "a path in a pixel must be UTF-8".to_owned())?
                    .to_owned(),
            }),
        }
    }

    pub fn into_local(self, what: &str) -> Result<PathBuf, Usage> {
        match self {
            Self::Here(path) => Ok(path),
            Self::Stream => Err(Usage(format!("{what}: - stands for one file alone"))),
            Self::Pixel { name, path } => Err(Usage(format!(
                "{what}: {name}:{path} is in a pixel; a file here with a colon is ./{name}:{path}"
            ))),
        }
    }

    pub fn into_pixel(self, what: &str) -> Result<(Name, String), Usage> {
        match self {
            Self::Pixel { name, path } => Ok((name, path)),
            _ => Err(Usage(format!(
                "{what} must be NAME:PATH, a path in a pixel"
            ))),
        }
    }
}

impl ValueParserFactory for PathArg {
    type Parser = PathArgParser;

    fn value_parser() -> PathArgParser {
        PathArgParser
    }
}

#[derive(Debug, Clone)]
pub struct PathArgParser;

impl TypedValueParser for PathArgParser {
    type Value = PathArg;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<PathArg, clap::Error> {
        PathArg::parse(value).map_err(|why| {
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{why}\n"))
                .with_cmd(command)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn a_name_and_a_colon_make_it_a_pixel() {
        let parse = |text: &str| PathArg::parse(OsStr::new(text)).unwrap();
        assert_eq!(parse("-"), PathArg::Stream);
        assert_eq!(
            parse("px-box:/a:b"),
            PathArg::Pixel {
                name: "box".parse().unwrap(),
                path: "/a:b".into()
            }
        );
        for here in ["box", "./box:x", "/a:b", "A:b", ":x", "..", "a b:c"] {
            assert_eq!(parse(here), PathArg::Here(here.into()), "{here}");
        }
        let raw = OsStr::from_bytes(b"a\xff");
        assert_eq!(PathArg::parse(raw), Ok(PathArg::Here(raw.into())));
        assert!(PathArg::parse(OsStr::from_bytes(b"a:\xff")).is_err());
    }
}
