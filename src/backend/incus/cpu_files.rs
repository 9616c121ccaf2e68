//! Keeps the files of LXCFS about the processors out of instances: an LXC hook in
//! an instance's configuration runs `host/unmount-cpu-files.sh` at each start.
//!
//! The instance then has the files of the kernel, which its root cannot change.

use super::init_script::one_line;

pub(super) const SCRIPT: &str = include_str!("host/unmount-cpu-files.sh");
const HOOK: &str = "lxc.hook.mount = /bin/sh -c '";
/// The shell's name for the script, which distinguishes the hook from other hooks.
const SHELL_NAME: &str = "' pixels-cpu-files";

/// Returns the line of `raw.lxc` with the hook of this version.
pub(super) fn hook() -> String {
    format!("{HOOK}{}{SHELL_NAME}", one_line(SCRIPT))
}

/// Whether a line of `raw.lxc` is the hook of this or another version.
pub(super) fn is_hook(line: &str) -> bool {
    line.starts_with(HOOK) && line.ends_with(SHELL_NAME)
}
