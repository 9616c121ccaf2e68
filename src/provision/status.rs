//! The state of the provisioning steps, from records inside the pixel.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StepState {
    /// The step will run after the steps before it.
    Pending,
    Running,
    Done,
    Failed,
    /// A step before this step failed.
    Blocked,
}

impl StepState {
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
pub struct StepStatus {
    pub name: String,
    pub status: StepState,
    pub exit_code: Option<i32>,
    /// Seconds since 1970.
    pub started_at: Option<i64>,
    /// Run time in seconds. Of a running step, the time until now.
    pub duration: Option<i64>,
    /// The last output line.
    pub last_line: String,
    /// Path of the log inside the pixel.
    pub log: String,
}

/// The combined state of all steps.
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
    pub steps: Vec<StepStatus>,
}

impl Report {
    /// Returns the first failed step.
    pub fn failed(&self) -> Option<&StepStatus> {
        self.steps
            .iter()
            .find(|step| step.status == StepState::Failed)
    }
}

/// Parses the output of `guest/status.sh`. Unknown keys are ignored.
pub(super) fn parse(text: &str) -> Report {
    let mut records = Records::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        match (key, records.steps.last_mut()) {
            ("now", _) => records.now = value.parse().ok(),
            ("boot", None) => records.boot = value.to_owned(),
            ("runner", _) => records.runner = is_active(value),
            ("system", _) => records.booting = matches!(value, "initializing" | "starting"),
            ("step", _) => records.steps.push(StepRecord {
                name: step_name(value),
                ..StepRecord::default()
            }),
            (key, Some(step)) => step.set(key, value),
            _ => {}
        }
    }
    records.into_report()
}

/// Returns a name without shell syntax: messages suggest commands that contain
/// the name, and root in the pixel controls the record.
fn step_name(text: &str) -> String {
    let is_part = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    text.chars().filter(is_part).take(40).collect()
}

#[derive(Default)]
struct Records {
    now: Option<i64>,
    boot: String,
    /// Whether the unit that starts the steps is active.
    runner: bool,
    booting: bool,
    steps: Vec<StepRecord>,
}

#[derive(Default)]
struct StepRecord {
    name: String,
    /// The hash in the current plan.
    wanted: String,
    /// The hash at the last run.
    hash: String,
    boot: String,
    state: String,
    exit_code: Option<i32>,
    started: Option<i64>,
    ended: Option<i64>,
    /// Whether the unit of the step is active.
    unit: bool,
    last: String,
}

impl StepRecord {
    fn set(&mut self, key: &str, value: &str) {
        match key {
            "wanted" => value.clone_into(&mut self.wanted),
            "hash" => value.clone_into(&mut self.hash),
            "boot" => value.clone_into(&mut self.boot),
            "state" => value.clone_into(&mut self.state),
            "exit_code" => self.exit_code = value.parse().ok(),
            "started" => self.started = value.parse().ok(),
            "ended" => self.ended = value.parse().ok(),
            "unit" => self.unit = is_active(value),
            "last" => value.clone_into(&mut self.last),
            _ => {}
        }
    }
}

fn is_active(state: &str) -> bool {
    // If empty, systemd did not answer, so the unit may be active.
    matches!(
        state,
        "active" | "activating" | "reloading" | "deactivating" | ""
    )
}

impl Records {
    fn into_report(self) -> Report {
        let (now, will_run) = (self.now, self.runner || self.booting);
        let mut blocked = false;
        let mut steps = Vec::with_capacity(self.steps.len());
        for record in self.steps {
            let this_boot = record.boot == self.boot;
            let status = match record.state.as_str() {
                "done" if record.hash == record.wanted => StepState::Done,
                "running" if record.unit => StepState::Running,
                // The step was interrupted and will be started again.
                "running" if will_run => StepState::Pending,
                "running" => StepState::Failed,
                "failed" if record.hash == record.wanted && (this_boot || !will_run) => {
                    StepState::Failed
                }
                _ if blocked => StepState::Blocked,
                _ if will_run || record.unit => StepState::Pending,
                // No unit will start the step.
                _ => StepState::Failed,
            };
            let mut last_line = record.last;
            if status == StepState::Failed {
                match record.state.as_str() {
                    "failed" => {}
                    "running" => "the step was interrupted".clone_into(&mut last_line),
                    _ => "the step was never started".clone_into(&mut last_line),
                }
            }
            blocked |= matches!(status, StepState::Failed);
            let has_run = !matches!(status, StepState::Pending | StepState::Blocked);
            let end = if status == StepState::Running {
                now
            } else {
                record.ended
            };
            steps.push(StepStatus {
                log: format!("/var/log/pixels/{}.log", record.name),
                name: record.name,
                status,
                exit_code: record.exit_code.filter(|_| has_run),
                started_at: record.started.filter(|_| has_run),
                duration: record
                    .started
                    .zip(end)
                    .map(|(start, end)| end.saturating_sub(start).max(0))
                    .filter(|_| has_run),
                last_line: if has_run { last_line } else { String::new() },
            });
        }
        let any = |state| steps.iter().any(|step: &StepStatus| step.status == state);
        let overall = if steps.is_empty() {
            Overall::None
        } else if any(StepState::Failed) {
            Overall::Failed
        } else if steps.iter().all(|step| step.status == StepState::Done) {
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

    fn states(report: &Report) -> Vec<StepState> {
        report.steps.iter().map(|step| step.status).collect()
    }

    #[test]
    fn running_step_leaves_next_pending() {
        let report = parse(
            "now=110\nboot=b\nstep=packages\nwanted=1\nhash=1\nboot=b\nstate=done\nexit_code=0\n\
             started=90\nended=99\nunit=inactive\nlast=ok\nstep=devtools\nwanted=2\nhash=2\n\
             boot=b\nstarted=100\nstate=running\nunit=activating\nlast=k=v\nstep=script\nwanted=3\n\
             unit=inactive\nlast=\nrunner=active\n",
        );
        assert_eq!(report.overall, Overall::Running);
        assert_eq!(
            states(&report),
            [StepState::Done, StepState::Running, StepState::Pending]
        );
        assert_eq!(report.steps[0].duration, Some(9));
        assert_eq!(report.steps[1].duration, Some(10));
        assert_eq!(report.steps[1].last_line, "k=v");
    }

    #[test]
    fn failed_step_blocks_later_steps() {
        let report = parse(
            "now=1\nboot=b\nstep=a\nwanted=1\nhash=1\nboot=b\nstate=failed\nexit_code=7\n\
             started=1\nended=2\nunit=failed\nlast=boom\nstep=b\nwanted=2\nunit=inactive\n\
             runner=failed\n",
        );
        assert_eq!(report.overall, Overall::Failed);
        assert_eq!(states(&report), [StepState::Failed, StepState::Blocked]);
        assert_eq!(report.failed().unwrap().exit_code, Some(7));
    }

    #[test]
    fn step_state_follows_its_record_and_what_will_run() {
        let interrupted = "now=1\nboot=new\nstep=a\nwanted=1\nhash=1\nboot=old\nstate=running\n\
                           unit=inactive\nlast=x\n";
        let changed = "now=1\nboot=b\nstep=a\nwanted=2\nhash=1\nboot=b\nstate=done\nexit_code=0\n";
        let unstarted = "now=1\nboot=b\nstep=a\nwanted=1\nunit=failed\nlast=\n";
        for (record, units, state, last_line) in [
            (
                interrupted,
                "runner=inactive\nsystem=running",
                StepState::Failed,
                "the step was interrupted",
            ),
            (interrupted, "runner=activating", StepState::Pending, ""),
            (
                interrupted,
                "runner=inactive\nsystem=starting",
                StepState::Pending,
                "",
            ),
            (changed, "runner=active", StepState::Pending, ""),
            (
                unstarted,
                "system=running\nrunner=failed",
                StepState::Failed,
                "the step was never started",
            ),
        ] {
            let report = parse(&format!("{record}{units}\n"));
            assert_eq!(states(&report), [state], "{record}{units}");
            assert_eq!(report.steps[0].last_line, last_line, "{record}{units}");
            let overall = match state {
                StepState::Failed => Overall::Failed,
                _ => Overall::Running,
            };
            assert_eq!(report.overall, overall, "{record}{units}");
        }
        assert_eq!(parse("").overall, Overall::None);
        let named = parse("step=a;touch $HOME/\u{1b}[2J\n");
        assert_eq!(named.steps[0].log, "/var/log/pixels/atouchHOME2J.log");
    }
}
