//! Where this user's files are, from an environment the caller hands in.
//!
//! A variable counts when it holds an absolute path; no path is ever taken as
//! relative to the working directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::ConfigError;

/// How a variable of the environment is looked up.
pub type Env<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// The settings file of this user, whether or not it exists.
pub fn config_file(env: &Env<'_>) -> Result<PathBuf, ConfigError> {
    Ok(config_dir(env)?.join("config.toml"))
}

/// The folder of the settings file and `known_hosts`.
pub fn config_dir(env: &Env<'_>) -> Result<PathBuf, ConfigError> {
    let system = if cfg!(target_os = "macos") {
        "Library/Application Support"
    } else {
        ".config"
    };
    dir(env, "XDG_CONFIG_HOME", system, "the config folder")
}

/// The folder of what can be made again, and of the MCP server's files.
pub fn cache_dir(env: &Env<'_>) -> Result<PathBuf, ConfigError> {
    let system = if cfg!(target_os = "macos") {
        "Library/Caches"
    } else {
        ".cache"
    };
    dir(env, "XDG_CACHE_HOME", system, "the cache folder")
}

/// The folder of what must survive, but is no setting.
pub fn state_dir(env: &Env<'_>) -> Result<PathBuf, ConfigError> {
    let system = if cfg!(target_os = "macos") {
        "Library/Application Support"
    } else {
        ".local/state"
    };
    dir(env, "XDG_STATE_HOME", system, "the state folder")
}

fn dir(env: &Env<'_>, xdg: &str, system: &str, what: &str) -> Result<PathBuf, ConfigError> {
    let base = match absolute(env, xdg) {
        Some(base) => base,
        None => home(env, what)?.join(system),
    };
    Ok(base.join("pixels"))
}

fn absolute(env: &Env<'_>, variable: &str) -> Option<PathBuf> {
    env(variable).map(PathBuf::from).filter(|p| p.is_absolute())
}

fn home(env: &Env<'_>, needed_by: &str) -> Result<PathBuf, ConfigError> {
    absolute(env, "HOME").ok_or_else(|| ConfigError::NoHome {
        needed_by: needed_by.to_owned(),
        set: env("HOME").is_some_and(|home| !home.is_empty()),
    })
}

/// The path with a leading `~/` replaced by the home folder; every other form
/// is returned as it is. `needed_by` names the setting in the error.
pub(super) fn expand(path: &str, env: &Env<'_>, needed_by: &str) -> Result<PathBuf, ConfigError> {
    match path.strip_prefix("~/") {
        // Further slashes would make the rest absolute, and replace the home.
        Some(rest) => Ok(home(env, needed_by)?.join(rest.trim_start_matches('/'))),
        None => Ok(Path::new(path).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<OsString> {
        |name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.into())
        }
    }

    #[test]
    fn xdg_variables_win_when_they_are_absolute() {
        let set = env(&[
            ("HOME", "/home/ann"),
            ("XDG_CONFIG_HOME", "/c"),
            ("XDG_CACHE_HOME", "/k"),
            ("XDG_STATE_HOME", "/s"),
        ]);
        assert_eq!(
            config_file(&set).unwrap(),
            Path::new("/c/pixels/config.toml")
        );
        assert_eq!(cache_dir(&set).unwrap(), Path::new("/k/pixels"));
        assert_eq!(state_dir(&set).unwrap(), Path::new("/s/pixels"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn home_is_used_when_they_are_empty_or_relative() {
        for pairs in [
            &[("HOME", "/home/ann")] as &[_],
            &[
                ("HOME", "/home/ann"),
                ("XDG_CONFIG_HOME", ""),
                ("XDG_CACHE_HOME", ""),
            ],
            &[
                ("HOME", "/home/ann"),
                ("XDG_CONFIG_HOME", "c"),
                ("XDG_CACHE_HOME", "./k"),
            ],
        ] {
            let set = env(pairs);
            assert_eq!(
                config_file(&set).unwrap(),
                Path::new("/home/ann/.config/pixels/config.toml")
            );
            assert_eq!(
                cache_dir(&set).unwrap(),
                Path::new("/home/ann/.cache/pixels")
            );
            assert_eq!(
                state_dir(&set).unwrap(),
                Path::new("/home/ann/.local/state/pixels")
            );
        }
    }

    #[test]
    fn without_a_home_the_error_says_who_needs_it() {
        for (pairs, why) in [
            (&[] as &[_], "HOME is not set"),
            (&[("HOME", "")], "HOME is not set"),
            (&[("HOME", "ann")], "HOME is not an absolute path"),
        ] {
            let error = cache_dir(&env(pairs)).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("the cache folder needs your home folder, but {why}")
            );
            assert!(expand("~/k", &env(pairs), "ssh.key").is_err());
            assert!(expand("/k", &env(pairs), "ssh.key").is_ok());
        }
    }

    #[test]
    fn only_a_leading_tilde_slash_is_expanded() {
        let set = env(&[("HOME", "/home/ann")]);
        for (path, expected) in [
            ("~/a/b", "/home/ann/a/b"),
            ("~//etc/x", "/home/ann/etc/x"),
            ("~", "~"),
            ("~bob/x", "~bob/x"),
            ("/a/~/b", "/a/~/b"),
            ("", ""),
        ] {
            assert_eq!(expand(path, &set, "k").unwrap(), Path::new(expected));
        }
    }
}
