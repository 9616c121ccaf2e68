//! The default image: whether one is at hand, and how one is built here.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::step::{Action, Plan, Step, StepId};
use crate::host::Options;
use crate::host::apt_sources;
use crate::host::command::CommandLine;
use crate::host::facts::{HostFacts, LocalFacts, Reachability, ServerState};
use crate::host::image::{FALLBACK_IMAGE_PREFIX, fallback_among};

/// Where the image of a new pixel comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "source", content = "alias", rename_all = "kebab-case")]
pub enum ImageState {
    /// The server has an image of that alias.
    Local,
    /// Incus downloads it when it is first needed.
    Download,
    /// Nobody asked for a particular image, and this one stands in.
    StandIn(String),
    Missing,
}

/// Whether it matters if the image server answers.
pub fn asks_image_server(facts: &HostFacts, options: &Options) -> bool {
    let settled = match (&facts.server, &facts.local) {
        (ServerState::Denied(_), _) | (ServerState::Silent(_), None) => true,
        _ => image_state(facts, options) != ImageState::Missing,
    };
    !settled && !options.image.starts_with(FALLBACK_IMAGE_PREFIX)
}

pub fn image_state(facts: &HostFacts, options: &Options) -> ImageState {
    let aliases = facts.server.facts().map_or(&[][..], |s| &s.aliases);
    if aliases.contains(&options.image) {
        return ImageState::Local;
    }
    // A built image is only ever in the local store.
    let ours = options.image.starts_with(FALLBACK_IMAGE_PREFIX);
    if !ours && matches!(facts.image_server, Reachability::Reachable { .. }) {
        return ImageState::Download;
    }
    match fallback_among(aliases.iter().map(String::as_str)) {
        Some(alias) if options.image_is_default => ImageState::StandIn(alias),
        _ => ImageState::Missing,
    }
}

/// An image built here would be used.
pub fn can_stand_in(facts: &HostFacts, options: &Options) -> bool {
    let built_here = |local: &LocalFacts| alias(local) == options.image;
    facts
        .local
        .as_ref()
        .is_some_and(|local| local.linux && (options.image_is_default || built_here(local)))
}

pub fn image(plan: &mut Plan, facts: &HostFacts, options: &Options, state: &ImageState) {
    match state {
        ImageState::Local | ImageState::Download => return,
        ImageState::StandIn(alias) => {
            if let Reachability::Unreachable(reason) = &facts.image_server {
                plan.warnings.push(format!(
                    "{} cannot be downloaded ({reason}): new pixels are made from {alias}",
                    options.image
                ));
            }
            return;
        }
        ImageState::Missing => {}
    }
    let why = match &facts.image_server {
        Reachability::Unreachable(reason) => format!(
            "{} is not on the server and {} does not answer: {reason}",
            options.image, options.image_server
        ),
        _ => format!("{} is not on the server", options.image),
    };
    let import = format!(
        "import one under that name: incus image import METADATA ROOTFS --alias {}",
        options.image
    );
    let blocked = |missing: String, fix: String| Action::Blocked { missing, fix };
    let action = match &facts.local {
        None => blocked(
            "an image is built on the machine Incus runs on".into(),
            format!("run `pixels setup` there, or {import}"),
        ),
        Some(local) if !can_stand_in(facts, options) => blocked(
            format!("only {} could be built here", alias(local)),
            format!("set defaults.image to \"{}\", or {import}", alias(local)),
        ),
        Some(local) => match recipe(local) {
            Ok((recipe, missing)) => {
                if !missing.is_empty() {
                    plan.warnings.push(format!(
                        "the package sources here name no {}: neither will the image's",
                        missing.join(", ")
                    ));
                }
                Action::BuildImage {
                    recipe,
                    work_dir: options.work_dir.clone(),
                }
            }
            Err(missing) => blocked(missing, import),
        },
    };
    plan.steps.push(Step {
        id: StepId::Image,
        title: match &facts.local {
            Some(local) if !matches!(action, Action::Blocked { .. }) => {
                format!("build the image {}", alias(local))
            }
            _ => format!("provide the image {}", options.image),
        },
        reason: why,
        action,
    });
}

/// How an image of this machine's own release is built.
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
    /// The script's command; the sources are expected beside its results.
    pub fn command(&self, work: &Path, out: &Path) -> CommandLine {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut args: Vec<String> = vec![text(&out.join("build-image.sh"))];
        let mut give = |name: &str, value: String| args.extend([name.to_owned(), value]);
        give("--work", text(work));
        give("--out", text(out));
        give("--suite", self.suite.clone());
        give("--mirror", self.mirror.clone());
        give("--components", self.components.clone());
        if let Some(keyring) = &self.keyring {
            give("--keyring", text(keyring));
        }
        give("--sources", text(&out.join("image.sources")));
        give("--arch", self.arch.clone());
        give("--os", self.os.clone());
        give("--release", self.suite.clone());
        give("--description", self.description.clone());
        CommandLine::new("sh", args)
    }
}

/// The recipe and the suites the host's sources do not name, or what stands
/// in the way.
pub fn recipe(local: &LocalFacts) -> Result<(Recipe, Vec<String>), String> {
    let os = &local.os;
    let (name, components) = match os.id.as_str() {
        "debian" => ("Debian", "main"),
        "ubuntu" => ("Ubuntu", "main,universe"),
        _ => return Err(format!("no image can be built on {}", os.pretty)),
    };
    let no_mirror = || {
        format!(
            "the package sources name no mirror of {} that an image can be built from",
            os.pretty
        )
    };
    let base = apt_sources::base(&local.sources, &os.codename).ok_or_else(no_mirror)?;
    let usable = |uri: &&String| {
        let kinds = ["http://", "https://", "file:"];
        kinds.iter().any(|kind| uri.starts_with(kind))
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

/// Says what the image is: the host's own distribution and release.
pub fn alias(local: &LocalFacts) -> String {
    format!("{FALLBACK_IMAGE_PREFIX}{}-{}", local.os.id, release(local))
}
