//! Console sessions that survive the connection, kept by zmx or tmux inside
//! the pixel.

use serde::Serialize;

use super::exec::{ExecOptions, wrap};
use super::user::User;
use crate::model::{Error, Guest, Result};

/// What is wanted of a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MultiplexerChoice {
    /// zmx where the pixel has it, else tmux.
    Auto,
    Zmx,
    Tmux,
    /// A plain shell that ends with the connection.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Multiplexer {
    Zmx,
    Tmux,
}

/// One session of the pixel's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Session {
    pub name: String,
    pub running: bool,
    pub clients: Option<u32>,
    pub multiplexer: Multiplexer,
}

/// Finds what can keep a session; `None` when the pixel has nothing (yet).
pub async fn find(
    guest: &dyn Guest,
    login: &User,
    wanted: MultiplexerChoice,
) -> Result<Option<Multiplexer>> {
    let order: &[Multiplexer] = match wanted {
        MultiplexerChoice::Nothing => return Ok(None),
        MultiplexerChoice::Auto => &[Multiplexer::Zmx, Multiplexer::Tmux],
        MultiplexerChoice::Zmx => &[Multiplexer::Zmx],
        MultiplexerChoice::Tmux => &[Multiplexer::Tmux],
    };
    let script = "for one in zmx tmux; do command -v $one >/dev/null && echo $one; done; true";
    let text = run(guest, login, &["sh", "-c", script]).await?;
    let has = |multiplexer: &Multiplexer| {
        text.lines().any(|line| match multiplexer {
            Multiplexer::Zmx => line == "zmx",
            Multiplexer::Tmux => line == "tmux",
        })
    };
    Ok(order.iter().copied().find(has))
}

/// The command that opens or joins a session, on a terminal.
pub fn attach(multiplexer: Option<Multiplexer>, session: &str) -> Vec<String> {
    let script = match multiplexer {
        // bash where the pixel has it; as a login shell either reads the profile.
        None => "if command -v bash >/dev/null; then exec bash -l; else exec sh -l; fi",
        Some(Multiplexer::Zmx) => {
            "unset PIXELS_EXEC_ID XDG_RUNTIME_DIR; exec zmx attach \"$1\" bash -l"
        }
        Some(Multiplexer::Tmux) => {
            "unset PIXELS_EXEC_ID; conf=/usr/local/lib/pixels/tmux.conf; \
             [ -r $conf ] || conf=/dev/null; \
             exec tmux -L pixels -f $conf new-session -A -s \"$1\" bash -l"
        }
    };
    let session = match multiplexer {
        Some(Multiplexer::Tmux) => session.replace('.', ","),
        _ => session.to_owned(),
    };
    ["sh", "-c", script, "sh", &session]
        .map(str::to_owned)
        .to_vec()
}

/// Letters, digits, dot, underscore and dash.
pub fn check_name(session: &str) -> Result<()> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !session.is_empty() && !session.starts_with('-') && session.chars().all(sound) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "invalid session name {session:?}: letters, digits, ., _ and - are allowed, and no - at its beginning"
    ).into()))
}

/// All sessions of the user, of either keeper.
pub async fn list(guest: &dyn Guest, login: &User) -> Result<Vec<Session>> {
    let text = run(
        guest,
        login,
        &["sh", "-c", include_str!("guest/sessions.sh")],
    )
    .await?;
    let mut found = false;
    let mut sessions = Vec::new();
    for line in text.lines() {
        let (multiplexer, rest) = match line.split_once('\t') {
            Some(("zmx", rest)) => (Multiplexer::Zmx, rest),
            Some(("tmux", rest)) => (Multiplexer::Tmux, rest),
            _ => continue,
        };
        found = true;
        sessions.extend(parse(multiplexer, rest));
    }
    if !found {
        return Err(Error::Unsupported {
            operation: "listing sessions".into(),
            reason: "the pixel has neither zmx nor tmux".into(),
        });
    }
    sessions.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sessions)
}

/// A line of tab-separated `key=value`; keys changed their names between zmx
/// releases (0.4: `session_name`, `task_ended_at`), unknown ones are passed over.
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

async fn run(guest: &dyn Guest, login: &User, argv: &[&str]) -> Result<String> {
    let options = ExecOptions {
        argv: argv.iter().map(|&word| word.to_owned()).collect(),
        login: login.clone(),
        env: Default::default(),
        cwd: None,
        tty: None,
        timeout: None,
    };
    let output = guest.output(&wrap(&options, "sessions")).await?;
    if !output.status.success() {
        return Err(Error::Guest {
            command: argv.first().copied().unwrap_or_default().to_owned(),
            status: output.status.0,
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zmx(line: &str) -> Option<(String, bool, Option<u32>)> {
        parse(Multiplexer::Zmx, line).map(|s| (s.name, s.running, s.clients))
    }

    #[test]
    fn every_release_of_zmx_is_understood() {
        // 0.4
        assert_eq!(
            zmx("session_name=console\tpid=12\tclients=1"),
            Some(("console".into(), true, Some(1)))
        );
        assert_eq!(
            zmx("session_name=x\tpid=12\tclients=0\ttask_ended_at=1700000000\ttask_exit_code=0"),
            Some(("x".into(), false, Some(0)))
        );
        // 0.5 to 0.7
        assert_eq!(
            zmx("name=console\tpid=12\tclients=2\tcreated=1700000000\tstart_dir=/home/pixel"),
            Some(("console".into(), true, Some(2)))
        );
        assert_eq!(
            zmx("name=b\tpid=3\tclients=0\tcreated=1\tstart_dir=/\tended=2\texit_code=1"),
            Some(("b".into(), false, Some(0)))
        );
        // after 0.7
        assert_eq!(
            zmx("  name=b\tpid=3\tclients=0\tcreated=1\tcwd=/x y\tnew=thing"),
            Some(("b".into(), true, Some(0)))
        );
        assert_eq!(zmx("no sessions found"), None);
    }

    #[test]
    fn names_travel_through_tmux_and_back() {
        let argv = attach(Some(Multiplexer::Tmux), "v1.2");
        assert_eq!(argv.last().map(String::as_str), Some("v1,2"));
        let seen = parse(Multiplexer::Tmux, "name=v1,2\tclients=0\tcreated=1").unwrap();
        assert_eq!(seen.name, "v1.2");
        assert!(check_name("v1.2_a-b").is_ok());
        for bad in ["", "a b", "a/b", "-x", "a;b", "ä"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
