//! How far a pixel's steps are, from what the pixel itself has on record.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its turn has not come.
    Pending,
    Running,
    Done,
    Failed,
    /// A step before it failed.
    Blocked,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Blocked => "blocked",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    pub name: String,
    pub status: State,
    pub exit_code: Option<i32>,
    /// Seconds since 1970.
    pub started_at: Option<i64>,
    /// Seconds it took, or has taken so far.
    pub duration: Option<i64>,
    /// The last line of its output.
    pub last_line: String,
    /// Where its whole output is, inside the pixel.
    pub log: String,
}

/// All steps together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Overall {
    /// The pixel was never provisioned.
    None,
    Running,
    Done,
    Failed,
}

impl Overall {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub overall: Overall,
    pub steps: Vec<Step>,
}

impl Report {
    pub fn failed(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.status == State::Failed)
    }
}

/// Reads what `guest/status.sh` prints. Unknown keys are passed over.
pub(super) fn parse(text: &str) -> Report {
    let mut facts = Facts::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        match (key, facts.steps.last_mut()) {
            ("now", _) => facts.now = value.parse().ok(),
            ("boot", None) => facts.boot = value.to_owned(),
            ("runner", _) => facts.runner = active(value),
            ("system", _) => facts.booting = matches!(value, "initializing" | "starting"),
            ("step", _) => facts.steps.push(Raw {
                name: value.to_owned(),
                ..Raw::default()
            }),
            (key, Some(step)) => step.set(key, value),
            _ => {}
        }
    }
    facts.judge()
}

#[derive(Default)]
struct Facts {
    now: Option<i64>,
    boot: String,
    /// The unit that starts the steps is at work.
    runner: bool,
    booting: bool,
    steps: Vec<Raw>,
}

#[derive(Default)]
struct Raw {
    name: String,
    wanted: String,
    hash: String,
    boot: String,
    state: String,
    exit_code: Option<i32>,
    started: Option<i64>,
    ended: Option<i64>,
    unit: bool,
    last: String,
}

impl Raw {
    fn set(&mut self, key: &str, value: &str) {
        match key {
            "wanted" => value.clone_into(&mut self.wanted),
            "hash" => value.clone_into(&mut self.hash),
            "boot" => value.clone_into(&mut self.boot),
            "state" => value.clone_into(&mut self.state),
            "exit_code" => self.exit_code = value.parse().ok(),
            "started" => self.started = value.parse().ok(),
            "ended" => self.ended = value.parse().ok(),
            "unit" => self.unit = active(value),
            "last" => value.clone_into(&mut self.last),
            _ => {}
        }
    }
}

fn active(state: &str) -> bool {
    // Empty: systemd did not answer, which says nothing against it.
    matches!(
        state,
        "active" | "activating" | "reloading" | "deactivating" | ""
    )
}

impl Facts {
    fn judge(self) -> Report {
        let (now, at_work) = (self.now, self.runner || self.booting);
        let mut blocked = false;
        let mut steps = Vec::with_capacity(self.steps.len());
        for raw in self.steps {
            let here = raw.boot == self.boot;
            let status = match raw.state.as_str() {
                "done" if raw.hash == raw.wanted => State::Done,
                "running" if raw.unit => State::Running,
                // Cut off, and about to be started again.
                "running" if at_work => State::Pending,
                "running" => State::Failed,
                "failed" if raw.hash == raw.wanted && (here || !at_work) => State::Failed,
                _ if blocked => State::Blocked,
                _ if at_work || raw.unit => State::Pending,
                // Nothing is left that would start it.
                _ => State::Failed,
            };
            let mut last_line = raw.last;
            if status == State::Failed {
                match raw.state.as_str() {
                    "failed" => {}
                    "running" => "it was interrupted".clone_into(&mut last_line),
                    _ => "it was never started".clone_into(&mut last_line),
                }
            }
            blocked |= matches!(status, State::Failed);
            let known = !matches!(status, State::Pending | State::Blocked);
            let until = if status == State::Running {
                now
            } else {
                raw.ended
            };
            steps.push(Step {
                log: format!("/var/log/pixels/{}.log", raw.name),
                name: raw.name,
                status,
                exit_code: raw.exit_code.filter(|_| known),
                started_at: raw.started.filter(|_| known),
                duration: raw
                    .started
                    .zip(until)
                    .map(|(from, to)| to.saturating_sub(from).max(0))
                    .filter(|_| known),
                last_line: if known { last_line } else { String::new() },
            });
        }
        let any = |state| steps.iter().any(|step: &Step| step.status == state);
        let overall = if steps.is_empty() {
            Overall::None
        } else if any(State::Failed) {
            Overall::Failed
        } else if steps.iter().all(|step| step.status == State::Done) {
            Overall::Done
        } else {
            Overall::Running
        };
        Report { overall, steps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(report: &Report) -> Vec<State> {
        report.steps.iter().map(|step| step.status).collect()
    }

    #[test]
    fn nothing_on_record_is_no_provisioning() {
        assert_eq!(parse("").overall, Overall::None);
    }

    #[test]
    fn a_running_step_and_one_that_waits() {
        let report = parse(
            "now=110\nboot=b\nstep=packages\nwanted=1\nhash=1\nboot=b\nstate=done\nexit_code=0\n\
             started=90\nended=99\nunit=inactive\nlast=ok\nstep=devtools\nwanted=2\nhash=2\n\
             boot=b\nstarted=100\nstate=running\nunit=activating\nlast=k=v\nstep=script\nwanted=3\n\
             unit=inactive\nlast=\nrunner=active\n",
        );
        assert_eq!(report.overall, Overall::Running);
        assert_eq!(
            states(&report),
            [State::Done, State::Running, State::Pending]
        );
        assert_eq!(report.steps[0].duration, Some(9));
        assert_eq!(report.steps[1].duration, Some(10));
        assert_eq!(report.steps[1].last_line, "k=v");
    }

    #[test]
    fn a_failure_blocks_what_comes_behind() {
        let report = parse(
            "now=1\nboot=b\nstep=a\nwanted=1\nhash=1\nboot=b\nstate=failed\nexit_code=7\n\
             started=1\nended=2\nunit=failed\nlast=boom\nstep=b\nwanted=2\nunit=inactive\n\
             runner=failed\n",
        );
        assert_eq!(report.overall, Overall::Failed);
        assert_eq!(states(&report), [State::Failed, State::Blocked]);
        assert_eq!(report.failed().unwrap().exit_code, Some(7));
    }

    #[test]
    fn a_step_cut_off_is_failed_unless_it_will_run_again() {
        let cut = "now=1\nboot=new\nstep=a\nwanted=1\nhash=1\nboot=old\nstate=running\n\
                   unit=inactive\nlast=x\n";
        assert_eq!(
            parse(&format!("{cut}runner=inactive\nsystem=running\n")).overall,
            Overall::Failed
        );
        assert_eq!(
            parse(&format!("{cut}runner=activating\n")).overall,
            Overall::Running
        );
        assert_eq!(
            parse(&format!("{cut}runner=inactive\nsystem=starting\n")).overall,
            Overall::Running
        );
    }

    #[test]
    fn a_step_that_nothing_will_start_is_failed() {
        let report = parse(
            "now=1\nboot=b\nstep=a\nwanted=1\nunit=failed\nlast=\nsystem=running\nrunner=failed\n",
        );
        assert_eq!(states(&report), [State::Failed]);
        assert_eq!(report.steps[0].last_line, "it was never started");
    }

    #[test]
    fn a_changed_step_is_to_be_run_again() {
        let report = parse(
            "now=1\nboot=b\nstep=a\nwanted=2\nhash=1\nboot=b\nstate=done\nexit_code=0\nrunner=active\n",
        );
        assert_eq!(states(&report), [State::Pending]);
    }
}
