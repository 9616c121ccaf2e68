//! The default image: whether the image is available, and the step that builds
//! a fallback image.

use serde::Serialize;

use super::recipe::{alias, recipe};
use super::step::{Action, Plan, StepId};
use crate::host::Options;
use crate::host::facts::{HostFacts, LocalFacts, Reachability, ServerState};
use crate::host::image::{FALLBACK_IMAGE_PREFIX, fallback_among};

/// The source of the image of new pixels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "source", content = "alias", rename_all = "kebab-case")]
pub enum ImageState {
    /// The server has an image with the configured alias.
    Local,
    /// Incus downloads the image at its first use.
    Download,
    /// The settings contain no image, and the fallback image with this alias
    /// replaces the default image.
    #[serde(rename = "stand-in")]
    Fallback(String),
    Missing,
}

/// Whether the plan depends on the reachability of the image server.
pub fn needs_image_server(facts: &HostFacts, options: &Options) -> bool {
    match (&facts.server, &facts.local) {
        (ServerState::Denied(_), _) | (ServerState::Unreachable(_), None) => false,
        _ => {
            image_state(facts, options) == ImageState::Missing
                && !options.image.starts_with(FALLBACK_IMAGE_PREFIX)
        }
    }
}

pub fn image_state(facts: &HostFacts, options: &Options) -> ImageState {
    let aliases = facts.server.facts().map_or(&[][..], |s| &s.aliases);
    if aliases.contains(&options.image) {
        return ImageState::Local;
    }
    // The image server has no fallback images.
    let is_fallback = options.image.starts_with(FALLBACK_IMAGE_PREFIX);
    if !is_fallback && matches!(facts.image_server, Reachability::Reachable { .. }) {
        return ImageState::Download;
    }
    match fallback_among(aliases.iter().map(String::as_str)) {
        Some(alias) if options.image_is_default => ImageState::Fallback(alias),
        _ => ImageState::Missing,
    }
}

/// Whether these settings allow an image that is built on this host.
pub fn can_build_fallback(facts: &HostFacts, options: &Options) -> bool {
    let is_built_here = |local: &LocalFacts| alias(local) == options.image;
    facts
        .local
        .as_ref()
        .is_some_and(|local| local.linux && (options.image_is_default || is_built_here(local)))
}

/// Adds the step that provides the image, unless the image is available.
pub fn add_image(plan: &mut Plan, facts: &HostFacts, options: &Options, state: &ImageState) {
    match state {
        ImageState::Local | ImageState::Download => return,
        ImageState::Fallback(alias) => {
            if let Reachability::Unreachable(reason) = &facts.image_server {
                plan.warnings.push(format!(
                    "cannot download image {} ({reason}): new pixels use {alias}",
                    options.image
                ));
            }
            return;
        }
        ImageState::Missing => {}
    }
    let reason = match &facts.image_server {
        Reachability::Unreachable(reason) => format!(
            "{} is not on the server, and {} cannot be reached: {reason}",
            options.image, options.image_server
        ),
        _ => format!("{} is not on the server", options.image),
    };
    let import = format!(
        "import an image with that alias: incus image import METADATA ROOTFS --alias {}",
        options.image
    );
    let action = match &facts.local {
        None => Action::blocked(
            "images are built on the machine that runs Incus",
            format!("run `pixels setup` on that machine, or {import}"),
        ),
        Some(local) if !can_build_fallback(facts, options) => Action::blocked(
            format!("this host can only build {}", alias(local)),
            format!("set defaults.image to \"{}\", or {import}", alias(local)),
        ),
        Some(local) => match recipe(local) {
            Ok((recipe, missing)) => {
                if !missing.is_empty() {
                    plan.warnings.push(format!(
                        "the apt sources of this host, and so of the image, lack {}",
                        missing.join(", ")
                    ));
                }
                Action::BuildImage {
                    recipe,
                    work_dir: options.work_dir.clone(),
                }
            }
            Err(missing) => Action::blocked(missing, import),
        },
    };
    let title = match (&facts.local, &action) {
        (Some(local), Action::BuildImage { .. }) => format!("build the image {}", alias(local)),
        _ => format!("provide the image {}", options.image),
    };
    plan.add(StepId::Image, title, reason, action);
}
