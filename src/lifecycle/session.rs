//! Console sessions that survive a disconnect, in zmx or tmux inside the pixel.

use serde::Serialize;

use super::exec::run_script;
use super::user::User;
use crate::model::{Error, Guest, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Multiplexer {
    Zmx,
    Tmux,
}

impl Multiplexer {
    fn from_program(program: &str) -> Option<Self> {
        match program {
            "zmx" => Some(Self::Zmx),
            "tmux" => Some(Self::Tmux),
            _ => None,
        }
    }
}

/// A session of the pixel's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Session {
    pub name: String,
    pub running: bool,
    pub clients: Option<u32>,
    pub multiplexer: Multiplexer,
}

/// Returns the first of the `accepted` multiplexers that is installed.
pub async fn find(
    guest: &dyn Guest,
    user: &User,
    accepted: &[Multiplexer],
) -> Result<Option<Multiplexer>> {
    if accepted.is_empty() {
        return Ok(None);
    }
    let text = run_script(guest, user, "sh", include_str!("guest/multiplexers.sh")).await?;
    let installed: Vec<Multiplexer> = text.lines().flat_map(Multiplexer::from_program).collect();
    Ok(accepted.iter().copied().find(|it| installed.contains(it)))
}

/// Returns the command that opens a session or attaches to an existing session.
/// The command needs a terminal.
pub fn attach(multiplexer: Option<Multiplexer>, session: &str) -> Vec<String> {
    let (program, session) = match multiplexer {
        None => ("none", session.to_owned()),
        Some(Multiplexer::Zmx) => ("zmx", session.to_owned()),
        // tmux replaces dots in session names.
        Some(Multiplexer::Tmux) => ("tmux", session.replace('.', ",")),
    };
    let script = include_str!("guest/attach.sh");
    ["sh", "-c", script, "sh", program, &session]
        .map(str::to_owned)
        .to_vec()
}

/// Checks a session name. Fails with `Error::Invalid` if it is invalid.
pub fn check_name(session: &str) -> Result<()> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !session.is_empty() && !session.starts_with('-') && session.chars().all(is_allowed) {
        return Ok(());
    }
    let message = format!(
        "invalid session name {session:?}: letters, digits, ., _ and - are allowed, except - at \
         the beginning"
    );
    Err(Error::Invalid(message.into()))
}

/// Returns all sessions of the user, sorted by name. Fails with
/// `Error::Unsupported` if the pixel has no multiplexer.
pub async fn list(guest: &dyn Guest, user: &User) -> Result<Vec<Session>> {
    let text = run_script(guest, user, "sh", include_str!("guest/sessions.sh")).await?;
    let mut installed = false;
    let mut sessions = Vec::new();
    for line in text.lines() {
        let Some((program, fields)) = line.split_once('\t') else {
            continue;
        };
        let Some(multiplexer) = Multiplexer::from_program(program) else {
            continue;
        };
        installed = true;
        sessions.extend(parse(multiplexer, fields));
    }
    if !installed {
        return Err(Error::Unsupported {
            operation: "listing sessions".into(),
            reason: "the pixel has neither zmx nor tmux".into(),
        });
    }
    sessions.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sessions)
}

/// Parses a line of tab-separated `key=value` fields. Keys differ between zmx
/// releases (0.4: `session_name`, `task_ended_at`). Unknown keys are skipped.
pub(super) fn parse(multiplexer: Multiplexer, line: &str) -> Option<Session> {
    let mut name = None;
    let mut clients = None;
    let mut running = true;
    for field in line.split('\t') {
        let Some((key, value)) = field.trim().split_once('=') else {
            continue;
        };
        match key {
            "name" | "session_name" => name = Some(value.to_owned()),
            "clients" => clients = value.parse().ok(),
            "ended" | "task_ended_at" => running = value.is_empty(),
            _ => {}
        }
    }
    let mut name = name.filter(|name| !name.is_empty())?;
    if multiplexer == Multiplexer::Tmux {
        name = name.replace(',', ".");
    }
    Some(Session {
        name,
        running,
        clients,
        multiplexer,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zmx_sessions_of_all_releases_are_parsed() {
        for (line, expected) in [
            // zmx 0.4
            (
                "session_name=console\tpid=12\tclients=1",
                Some(("console", true, Some(1))),
            ),
            (
                "session_name=x\tpid=12\tclients=0\ttask_ended_at=1700000000\ttask_exit_code=0",
                Some(("x", false, Some(0))),
            ),
            // zmx 0.5 to 0.7
            (
                "name=console\tpid=12\tclients=2\tcreated=1700000000\tstart_dir=/home/pixel",
                Some(("console", true, Some(2))),
            ),
            (
                "name=b\tpid=3\tclients=0\tcreated=1\tstart_dir=/\tended=2\texit_code=1",
                Some(("b", false, Some(0))),
            ),
            // zmx after 0.7
            (
                "  name=b\tpid=3\tclients=0\tcreated=1\tcwd=/x y\tnew=thing",
                Some(("b", true, Some(0))),
            ),
            ("no sessions found", None),
        ] {
            let session = parse(Multiplexer::Zmx, line);
            let session = session.as_ref();
            let found = session.map(|s| (s.name.as_str(), s.running, s.clients));
            assert_eq!(found, expected, "{line:?}");
        }
    }

    #[test]
    fn session_name_with_dot_survives_tmux() {
        let argv = attach(Some(Multiplexer::Tmux), "v1.2");
        assert_eq!(argv.last().map(String::as_str), Some("v1,2"));
        let session = parse(Multiplexer::Tmux, "name=v1,2\tclients=0\tcreated=1").unwrap();
        assert_eq!(session.name, "v1.2");
    }

    #[test]
    fn session_names_are_checked() {
        assert!(check_name("v1.2_a-b").is_ok());
        for bad in ["", "a b", "a/b", "-x", "a;b", "ä"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
