//! `pixels completions`, and the candidates that shell completion offers.

use std::ffi::OsStr;
use std::time::Duration;

use clap::Args;
use clap_complete::engine::{
    ArgValueCandidates, ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter,
};
use clap_complete::env::Shells;

use crate::config::{Flags, Settings};
use crate::egress::Mode;
use crate::model::{Backend, Name};
use crate::ui::Ui;
use crate::{backend, exit};

/// Time limit for the server. After that, completion offers no candidates.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Print a shell completion script
///
/// To enable completion in bash, add to ~/.bashrc:  source <(pixels completions bash)
#[derive(Debug, Args)]
#[command(after_help = examples!(
    "pixels completions bash > ~/.local/share/bash-completion/completions/pixels"
    "pixels completions zsh > _pixels"
    "pixels completions fish > ~/.config/fish/completions/pixels.fish"
))]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_parser = ["bash", "zsh", "fish", "powershell", "elvish"])]
    shell: String,
}

impl CompletionsArgs {
    pub fn run(&self, ui: &Ui) -> anyhow::Result<()> {
        let name = &self.shell;
        let shells = Shells::builtins();
        let completer = shells
            .completer(name)
            .ok_or_else(|| exit::Usage(format!("no completion for {name}")))?;
        let mut script = Vec::new();
        completer.write_registration("COMPLETE", "pixels", "pixels", "pixels", &mut script)?;
        if name == "bash" {
            script.extend_from_slice(include_bytes!("colons.bash"));
        }
        ui.raw(&script);
        Ok(())
    }
}

/// Names of pixels.
pub fn pixels() -> ArgValueCandidates {
    ArgValueCandidates::new(|| candidates(pixel_names("")))
}

/// Local files and folders, and `NAME:` for a path in each pixel.
pub fn paths() -> ArgValueCompleter {
    ArgValueCompleter::new(complete_path)
}

fn complete_path(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut all = PathCompleter::any().complete(current);
    let typed = current.to_string_lossy();
    // A word with a slash before the colon is a local path.
    if !typed.contains('/') {
        let mut names = pixel_names(":");
        names.retain(|name| name.starts_with(&*typed));
        all.extend(candidates(names));
    }
    all
}

fn pixel_names(suffix: &str) -> Vec<String> {
    let names = ask(async |backend| {
        let all = backend.list().await.ok()?;
        let names = all.iter().map(|pixel| format!("{}{suffix}", pixel.name));
        Some(names.collect())
    });
    names.unwrap_or_default()
}

/// Names of pixels, and `NAME:LABEL` for each of their checkpoints.
pub fn clone_sources() -> ArgValueCandidates {
    let sources = async |backend: &dyn Backend| {
        let mut all = Vec::new();
        for pixel in backend.list().await.ok()? {
            let labels = checkpoint_labels(backend, &pixel.name).await;
            let labels = labels.unwrap_or_default().into_iter();
            all.extend(labels.map(|label| format!("{}:{label}", pixel.name)));
            all.push(pixel.name.to_string());
        }
        Some(all)
    };
    ArgValueCandidates::new(move || candidates(ask(sources).unwrap_or_default()))
}

/// Labels of checkpoints of the pixel that precedes the label. clap passes only
/// the current argument, so the pixel is read from the process arguments.
pub fn labels() -> ArgValueCompleter {
    ArgValueCompleter::new(complete_label)
}

fn complete_label(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed = current.to_string_lossy().into_owned();
    let pixel = std::env::args_os()
        .map(|word| word.to_string_lossy().into_owned())
        .skip_while(|word| word != "restore" && word != "delete" && word != "rm")
        .skip(1)
        .find(|word| !word.starts_with('-'))
        .and_then(|name| name.parse::<Name>().ok());
    let Some(pixel) = pixel else {
        return Vec::new();
    };
    let labels = ask(async |backend| checkpoint_labels(backend, &pixel).await);
    let mut labels = labels.unwrap_or_default();
    labels.retain(|label| label.starts_with(&typed));
    candidates(labels)
}

async fn checkpoint_labels(backend: &dyn Backend, pixel: &Name) -> Option<Vec<String>> {
    let checkpoints = backend.checkpoints(pixel).await.ok()?;
    let labels = checkpoints
        .into_iter()
        .filter(|checkpoint| !checkpoint.temporary)
        .map(|checkpoint| checkpoint.label.to_string());
    Some(labels.collect())
}

/// Egress modes.
pub fn modes() -> ArgValueCandidates {
    ArgValueCandidates::new(|| candidates(Mode::NAMES.iter().map(|&name| name.to_owned())))
}

/// Names of bases in the settings.
pub fn bases() -> ArgValueCandidates {
    let names = || load_settings().map(|settings| settings.mcp.bases.into_keys());
    ArgValueCandidates::new(move || candidates(names().into_iter().flatten()))
}

fn candidates(values: impl IntoIterator<Item = String>) -> Vec<CompletionCandidate> {
    values.into_iter().map(CompletionCandidate::new).collect()
}

fn load_settings() -> Option<Settings> {
    let loaded = Settings::load(None, &|name| std::env::var_os(name), &Flags::default());
    Some(loaded.ok()?.settings)
}

/// Queries the server of the settings. Returns `None` on any error.
fn ask<T>(query: impl AsyncFnOnce(&dyn Backend) -> Option<T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let answer = runtime.block_on(async {
        let backend = backend::open(&load_settings()?).ok()?;
        tokio::time::timeout(TIMEOUT, query(&*backend)).await.ok()?
    });
    runtime.shutdown_background();
    answer
}
