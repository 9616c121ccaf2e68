//! The directories of this user, from the environment of the caller.
//!
//! Ignores variables that are not absolute paths. No path is relative to the
//! working directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A path below the home directory is required, but the home directory is unknown.
#[derive(Debug, thiserror::Error)]
#[error(
    "{needed_by} needs your home folder, but HOME is {}",
    if *.set { "not an absolute path" } else { "not set" }
)]
pub struct NoHome {
    needed_by: String,
    set: bool,
}

/// Looks up an environment variable.
pub type Env<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

const MACOS_SUPPORT: &str = "Library/Application Support";

/// The path of this user's settings file. The file may not exist.
pub fn config_file(env: &Env<'_>) -> Result<PathBuf, NoHome> {
    Ok(config_dir(env)?.join("config.toml"))
}

/// The directory of the settings file and `known_hosts`.
pub fn config_dir(env: &Env<'_>) -> Result<PathBuf, NoHome> {
    user_dir(env, "config", ".config", MACOS_SUPPORT)
}

/// The directory of recreatable data and of the MCP server's files.
pub fn cache_dir(env: &Env<'_>) -> Result<PathBuf, NoHome> {
    user_dir(env, "cache", ".cache", "Library/Caches")
}

/// The directory of persistent data other than settings.
pub fn state_dir(env: &Env<'_>) -> Result<PathBuf, NoHome> {
    user_dir(env, "state", ".local/state", MACOS_SUPPORT)
}

fn user_dir(env: &Env<'_>, kind: &str, linux: &str, macos: &str) -> Result<PathBuf, NoHome> {
    let xdg_variable = format!("XDG_{}_HOME", kind.to_uppercase());
    let below_home = if cfg!(target_os = "macos") {
        macos
    } else {
        linux
    };
    let base = match absolute(env, &xdg_variable) {
        Some(base) => base,
        None => home(env, &format!("the {kind} folder"))?.join(below_home),
    };
    Ok(base.join("pixels"))
}

fn absolute(env: &Env<'_>, variable: &str) -> Option<PathBuf> {
    env(variable)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

fn home(env: &Env<'_>, needed_by: &str) -> Result<PathBuf, NoHome> {
    absolute(env, "HOME").ok_or_else(|| NoHome {
        needed_by: needed_by.to_owned(),
        set: env("HOME").is_some_and(|home| !home.is_empty()),
    })
}

/// Replaces a leading `~/` by the home directory. Returns other paths
/// unchanged. `needed_by` names the setting in the error.
pub fn expand_home(path: &str, env: &Env<'_>, needed_by: &str) -> Result<PathBuf, NoHome> {
    match path.strip_prefix("~/") {
        // `join` would return an absolute path if the rest began with a slash.
        Some(rest) => Ok(home(env, needed_by)?.join(rest.trim_start_matches('/'))),
        None => Ok(Path::new(path).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| {
            let found = pairs.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| value.into())
        }
    }

    #[test]
    fn absolute_xdg_variables_replace_folders_below_home() {
        let dirs = |pairs: &[(&str, &str)]| {
            let env = vars(pairs);
            [config_file(&env), cache_dir(&env), state_dir(&env)]
                .map(|dir| dir.unwrap().display().to_string())
        };
        let home = ("HOME", "/home/ann");
        let set = [
            home,
            ("XDG_CONFIG_HOME", "/c"),
            ("XDG_CACHE_HOME", "/k"),
            ("XDG_STATE_HOME", "/s"),
        ];
        assert_eq!(
            dirs(&set),
            ["/c/pixels/config.toml", "/k/pixels", "/s/pixels"]
        );
        if cfg!(target_os = "linux") {
            for other in ["", "relative", "./k"] {
                let ignored = [home, ("XDG_CONFIG_HOME", other), ("XDG_CACHE_HOME", other)];
                assert_eq!(
                    dirs(&ignored),
                    [
                        "/home/ann/.config/pixels/config.toml",
                        "/home/ann/.cache/pixels",
                        "/home/ann/.local/state/pixels"
                    ]
                );
            }
        }
    }

    #[test]
    fn missing_home_is_an_error_that_names_the_user_of_the_path() {
        for (pairs, problem) in [
            (&[][..], "HOME is not set"),
            (&[("HOME", "")], "HOME is not set"),
            (&[("HOME", "ann")], "HOME is not an absolute path"),
        ] {
            let error = cache_dir(&vars(pairs)).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("the cache folder needs your home folder, but {problem}")
            );
            assert!(expand_home("~/k", &vars(pairs), "ssh.key").is_err());
            assert!(expand_home("/k", &vars(pairs), "ssh.key").is_ok());
        }
    }

    #[test]
    fn only_a_leading_tilde_and_slash_is_expanded() {
        let env = vars(&[("HOME", "/home/ann")]);
        for (path, expected) in [
            ("~/a/b", "/home/ann/a/b"),
            ("~//etc/x", "/home/ann/etc/x"),
            ("~", "~"),
            ("~bob/x", "~bob/x"),
            ("/a/~/b", "/a/~/b"),
            ("", ""),
        ] {
            assert_eq!(expand_home(path, &env, "k").unwrap(), Path::new(expected));
        }
    }
}
