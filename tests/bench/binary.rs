//! Builds or finds the pixels binary to measure.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::args::Args;
use crate::process;

/// The Rust target of the static build.
const MUSL: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-musl"
} else {
    "x86_64-unknown-linux-musl"
};

pub struct Binary {
    pub path: PathBuf,
    /// Human-readable description of the build.
    pub kind: String,
    pub bytes: u64,
    /// Whether the binary runs without other files such as a dynamic linker.
    pub is_static: bool,
}

pub fn under_test(args: &Args) -> Result<Binary> {
    let (path, kind) = match &args.binary {
        Some(path) => {
            let path = path
                .canonicalize()
                .with_context(|| path.display().to_string())?;
            (path, "given with --binary".to_owned())
        }
        None if has_musl() => (build(Some(MUSL))?, format!("profile dist, {MUSL}")),
        None => (
            build(None)?,
            format!("profile dist for the host: the target {MUSL} is not installed"),
        ),
    };
    let bytes = std::fs::metadata(&path)?.len();
    let is_static = runs_alone(&path)?;
    Ok(Binary {
        path,
        kind,
        bytes,
        is_static,
    })
}

fn has_musl() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output();
    sysroot.is_ok_and(|output| {
        let root = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let libraries = Path::new(&root).join("lib/rustlib").join(MUSL).join("lib");
        output.status.success() && libraries.is_dir()
    })
}

fn build(target: Option<&str>) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--profile", "dist", "--bin", "pixels"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit());
    if let Some(target) = target {
        command.args(["--target", target]);
        let compiler = format!("CC_{}", target.replace('-', "_"));
        // Crates with C code need a C compiler: gcc works without musl-gcc.
        let driver = format!("{}-linux-musl-gcc", std::env::consts::ARCH);
        let found = process::find(&driver).or_else(|| process::find("musl-gcc"));
        if std::env::var_os(&compiler).is_none() && found.is_none() {
            command.env(compiler, "gcc");
        }
    }
    let output = command.output().context("cargo build")?;
    if !output.status.success() {
        bail!("cargo build failed");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo built no executable")
}

/// Whether the binary prints its version in an otherwise empty root.
fn runs_alone(path: &Path) -> Result<bool> {
    let root = tempfile::tempdir()?;
    std::fs::copy(path, root.path().join("pixels"))?;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--root"])
        .arg(root.path())
        .args(["/pixels", "--version"])
        .output()
        .context("unshare")?;
    Ok(output.status.success() && output.stdout.starts_with(b"pixels "))
}
