//! `pixels completions`, and the names that completion offers.

use std::ffi::OsStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use clap_complete::env::Shells;

use crate::config::{EgressMode, Flags, Settings};
use crate::model::{Backend, Name};
use crate::ui::Ui;
use crate::{backend, exit};

/// Nobody waits for a completion longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

/// Print the completion script for a shell
///
/// bash: add to ~/.bashrc:  source <(pixels completions bash)
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell to complete in
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
    Elvish,
}

impl CompletionsArgs {
    pub fn run(&self, ui: &Ui) -> anyhow::Result<()> {
        let name = match self.shell {
            Shell::Bash => "bash",
            Shell::Zsh => "zsh",
            Shell::Fish => "fish",
            Shell::Powershell => "powershell",
            Shell::Elvish => "elvish",
        };
        let shells = Shells::builtins();
        let completer = shells
            .completer(name)
            .ok_or_else(|| exit::Usage(format!("no completion for {name}")))?;
        let mut script = Vec::new();
        completer.write_registration("COMPLETE", "pixels", "pixels", "pixels", &mut script)?;
        if matches!(self.shell, Shell::Bash) {
            script.extend_from_slice(include_bytes!("colons.bash"));
        }
        ui.text(&String::from_utf8_lossy(&script));
        Ok(())
    }
}

/// Names of pixels.
pub fn pixels() -> Vec<CompletionCandidate> {
    let found: Option<Vec<String>> = ask(async |backend| {
        let all = backend.list().await.ok()?;
        Some(
            all.into_iter()
                .map(|pixel| pixel.name.to_string())
                .collect(),
        )
    });
    candidates(found.unwrap_or_default())
}

/// Files and folders here, and `name:` for a path in each pixel.
pub fn places(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut all = PathCompleter::any().complete(current);
    let typed = current.to_string_lossy();
    // With a slash before the colon it is a path here.
    if !typed.contains('/') {
        let begins =
            |one: &CompletionCandidate| one.get_value().to_string_lossy().starts_with(&*typed);
        all.extend(inside().into_iter().filter(begins));
    }
    all
}

fn inside() -> Vec<CompletionCandidate> {
    let found: Option<Vec<String>> = ask(async |backend| {
        let all = backend.list().await.ok()?;
        Some(all.iter().map(|pixel| format!("{}:", pixel.name)).collect())
    });
    candidates(found.unwrap_or_default())
}

/// Names of pixels, and `name:label` for each of their checkpoints.
pub fn origins() -> Vec<CompletionCandidate> {
    let found: Option<Vec<String>> = ask(async |backend| {
        let mut all = Vec::new();
        for pixel in backend.list().await.ok()? {
            for checkpoint in backend.checkpoints(&pixel.name).await.unwrap_or_default() {
                if !checkpoint.temporary {
                    all.push(format!("{}:{}", pixel.name, checkpoint.label));
                }
            }
            all.push(pixel.name.to_string());
        }
        Some(all)
    });
    candidates(found.unwrap_or_default())
}

/// Labels of the pixel named before, which the shell gives only as text.
pub fn labels(current: &OsStr) -> Vec<CompletionCandidate> {
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
    let found: Option<Vec<String>> = ask(async |backend| {
        let all = backend.checkpoints(&pixel).await.ok()?;
        Some(
            all.into_iter()
                .filter(|checkpoint| !checkpoint.temporary)
                .map(|checkpoint| checkpoint.label.to_string())
                .collect(),
        )
    });
    let mut found = found.unwrap_or_default();
    found.retain(|label| label.starts_with(&typed));
    candidates(found)
}

/// What a pixel may reach, in a word.
pub fn modes() -> Vec<CompletionCandidate> {
    candidates(
        EgressMode::NAMES
            .iter()
            .map(|&name| name.to_owned())
            .collect(),
    )
}

/// Names of bases, which the settings have.
pub fn bases() -> Vec<CompletionCandidate> {
    let env = |name: &str| std::env::var_os(name);
    let loaded = Settings::load(None, &env, &Flags::default());
    candidates(loaded.map_or_else(
        |_| Vec::new(),
        |loaded| loaded.settings.mcp.bases.into_keys().collect(),
    ))
}

fn candidates(of: Vec<String>) -> Vec<CompletionCandidate> {
    of.into_iter().map(CompletionCandidate::new).collect()
}

/// Asks the server; a completion that cannot be had is no completion.
fn ask<T>(question: impl AsyncFnOnce(&dyn Backend) -> Option<T>) -> Option<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let answer = runtime.block_on(async {
        let env = |name: &str| std::env::var_os(name);
        let loaded = Settings::load(None, &env, &Flags::default()).ok()?;
        let backend = backend::open(&loaded.settings).ok()?;
        tokio::time::timeout(PATIENCE, question(&*backend))
            .await
            .ok()?
    });
    runtime.shutdown_background();
    answer
}
