//! The recipe of an image with the host's own distribution and release.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::host::apt_sources;
use crate::host::command::CommandLine;
use crate::host::facts::LocalFacts;
use crate::host::image::FALLBACK_IMAGE_PREFIX;

/// The arguments of `build-image.sh`, and the alias of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recipe {
    pub alias: String,
    pub suite: String,
    pub mirror: String,
    pub components: String,
    pub keyring: Option<PathBuf>,
    /// The image's apt sources.
    pub sources: String,
    pub arch: String,
    pub os: String,
    pub description: String,
}

impl Recipe {
    /// Returns the command that builds the image in `work` and writes its files
    /// to `out`. `out` must contain the script and `image.sources`.
    pub fn command(&self, work: &Path, out: &Path) -> CommandLine {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut args: Vec<String> = vec![path(&out.join("build-image.sh"))];
        for (name, value) in [
            ("--work", path(work)),
            ("--out", path(out)),
            ("--suite", self.suite.clone()),
            ("--mirror", self.mirror.clone()),
            ("--components", self.components.clone()),
            ("--sources", path(&out.join("image.sources"))),
            ("--arch", self.arch.clone()),
            ("--os", self.os.clone()),
            ("--release", self.suite.clone()),
            ("--description", self.description.clone()),
        ] {
            args.extend([name.to_owned(), value]);
        }
        if let Some(keyring) = &self.keyring {
            args.extend(["--keyring".into(), path(keyring)]);
        }
        CommandLine::new("sh", args)
    }
}

/// Returns the recipe, and the suites that the host's sources lack. The error
/// is the reason why no image can be built.
pub fn recipe(local: &LocalFacts) -> Result<(Recipe, Vec<String>), String> {
    let os = &local.os;
    let (name, components) = match os.id.as_str() {
        "debian" => ("Debian", "main"),
        "ubuntu" => ("Ubuntu", "main,universe"),
        _ => return Err(format!("no image can be built on {}", os.pretty)),
    };
    let no_mirror = || {
        format!(
            "the apt sources have no http, https or file mirror of {}",
            os.pretty
        )
    };
    let base = apt_sources::base(&local.sources, &os.codename).ok_or_else(no_mirror)?;
    let usable = |uri: &&String| {
        let schemes = ["http://", "https://", "file:"];
        schemes.iter().any(|scheme| uri.starts_with(scheme))
    };
    let mirror = base.uris.iter().find(usable).ok_or_else(no_mirror)?;
    let (text, missing) = apt_sources::for_image(&local.sources, &os.codename);
    let recipe = Recipe {
        alias: alias(local),
        suite: os.codename.clone(),
        mirror: mirror.clone(),
        components: components.into(),
        keyring: base.keyring().map(PathBuf::from),
        sources: text,
        arch: local.machine.clone(),
        os: name.into(),
        description: format!(
            "{} {} {}, built by pixels",
            name,
            release(local),
            local.machine
        ),
    };
    Ok((recipe, missing))
}

fn release(local: &LocalFacts) -> &str {
    let os = &local.os;
    if os.version_id.is_empty() {
        &os.codename
    } else {
        &os.version_id
    }
}

/// Returns the alias of images built on this host, such as `pixels/debian-12`.
pub fn alias(local: &LocalFacts) -> String {
    format!("{FALLBACK_IMAGE_PREFIX}{}-{}", local.os.id, release(local))
}
