//! The command that creates an instance, recorded on the instance. A rollback
//! deletes only instances that the same command created, and later commands can
//! check whether the creator of an incomplete instance is still running.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::model::{Instance, Properties, fnv1a};

/// The instance property with the creator.
pub(super) const KEY: &str = "created-by";

/// A command of a process, identified by machine, boot and process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creator {
    machine: String,
    boot: String,
    pid: u32,
    /// Start time of the process. Process ids alone are reused.
    started: u64,
    /// Number of the command within its process.
    serial: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreatorState {
    /// The command is running on this machine.
    Running,
    /// The command has exited.
    Exited,
    /// The command is on another machine, so its state is unknown.
    OtherMachine,
}

impl Creator {
    /// Identifies a new command of this process.
    pub fn new() -> Self {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id();
        Self {
            machine: machine(),
            boot: boot(),
            pid,
            started: start_time(pid).unwrap_or(0),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// A short text unique to this command. It is valid in a checkpoint label.
    pub fn id(&self) -> String {
        let host = machine_hash(&self.machine, &self.boot);
        format!("{host:08x}-{}-{}-{}", self.pid, self.started, self.serial)
    }

    /// Returns the state of the command with this [`id`](Self::id), or `None`
    /// if the text is not an id.
    pub fn state_of_id(id: &str) -> Option<CreatorState> {
        let mut parts = id.split('-');
        let host = u32::from_str_radix(parts.next()?, 16).ok()?;
        let pid: u32 = parts.next()?.parse().ok()?;
        let started: u64 = parts.next()?.parse().ok()?;
        if host != machine_hash(&machine(), &boot()) {
            return Some(CreatorState::OtherMachine);
        }
        Some(process_state(pid, started))
    }

    /// Records this command as the creator.
    pub fn insert_into(&self, properties: &mut Properties) {
        properties.insert(KEY.into(), self.to_string());
    }

    /// Properties that remove the recorded creator.
    pub(super) fn cleared_properties() -> Properties {
        Properties::from([(KEY.to_owned(), String::new())])
    }

    /// Returns the creator recorded on an instance, if present and valid.
    pub fn recorded_on(instance: &Instance) -> Option<Self> {
        instance.properties.get(KEY)?.parse().ok()
    }

    /// Machine and process of the command, for display.
    pub fn origin(&self) -> String {
        format!("{}, process {}", self.machine, self.pid)
    }

    pub fn state(&self) -> CreatorState {
        if self.machine != machine() {
            return CreatorState::OtherMachine;
        }
        if self.boot != boot() {
            return CreatorState::Exited;
        }
        process_state(self.pid, self.started)
    }
}

fn process_state(pid: u32, started: u64) -> CreatorState {
    match start_time(pid) {
        Some(found) if found == started => CreatorState::Running,
        _ => CreatorState::Exited,
    }
}

impl Default for Creator {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Creator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            machine,
            boot,
            pid,
            started,
            serial,
        } = self;
        write!(f, "{machine} {boot} {pid} {started} {serial}")
    }
}

impl FromStr for Creator {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.split(' ');
        let mut next = || parts.next().ok_or(());
        let creator = Self {
            machine: next()?.to_owned(),
            boot: next()?.to_owned(),
            pid: next()?.parse().map_err(drop)?,
            started: next()?.parse().map_err(drop)?,
            serial: next()?.parse().map_err(drop)?,
        };
        Ok(creator)
    }
}

fn machine_hash(machine: &str, boot: &str) -> u32 {
    fnv1a(machine.bytes().chain([0]).chain(boot.bytes()))
}

fn machine() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    name.replace(' ', "_")
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_else(|_| "unknown".into())
}

/// Returns field 22 of `/proc/PID/stat`, or `None` if the process has ended.
/// Fields are counted after the command name, which may contain spaces and `)`.
#[cfg(target_os = "linux")]
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    // A zombie process has ended.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Start times are not available on this platform. A process with the same id
/// counts as the creator, so that an instance being created is not an orphan.
#[cfg(not(target_os = "linux"))]
fn start_time(pid: u32) -> Option<u64> {
    use rustix::io::Errno;
    use rustix::process::{Pid, test_kill_process};
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    match test_kill_process(pid) {
        Ok(()) | Err(Errno::PERM) => Some(0),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creator_survives_the_property_format() {
        let creator = Creator::new();
        assert_eq!(creator.to_string().parse::<Creator>(), Ok(creator.clone()));
        assert_ne!(creator, Creator::new());
        for bad in ["", "a b c", "a b x 1 1"] {
            assert!(bad.parse::<Creator>().is_err());
        }
    }

    #[test]
    fn state_follows_machine_boot_and_start_time() {
        let states = |creator: &Creator| {
            let by_id = Creator::state_of_id(&creator.id()).unwrap();
            [creator.state(), by_id]
        };
        let mut creator = Creator::new();
        assert_eq!(states(&creator), [CreatorState::Running; 2]);
        // Describes another process with the same process id.
        creator.started += 1;
        assert_eq!(states(&creator), [CreatorState::Exited; 2]);
        creator.boot = "earlier".into();
        assert_eq!(creator.state(), CreatorState::Exited);
        creator.machine = "other".into();
        assert_eq!(states(&creator), [CreatorState::OtherMachine; 2]);
        assert_eq!(Creator::state_of_id("x"), None);
    }
}
