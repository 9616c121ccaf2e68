//! Who is making an instance, written on the instance itself: undo touches
//! only what its own command made, and a later command can tell whether the
//! maker of a half-made instance is still at work.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::model::{Instance, Properties};

/// The property that holds the claim.
const KEY: &str = "created-by";

/// One command of one process on one boot of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creator {
    machine: String,
    boot: String,
    pid: u32,
    /// Start time of the process, which tells it from a later one of the same id.
    started: u64,
    /// Tells commands of one process apart.
    serial: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreatorState {
    /// Still running on this machine.
    Alive,
    /// Gone for certain.
    Dead,
    /// On another machine: cannot be told from here.
    Elsewhere,
}

impl Creator {
    /// A new claim of this process.
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

    /// A short text that no other command shares, fit for a checkpoint's label.
    pub fn unique(&self) -> String {
        let place = machine_hash(&self.machine, &self.boot);
        format!("{place:08x}-{}-{}-{}", self.pid, self.started, self.serial)
    }

    /// What became of the command whose [`Claim::unique`] text this is.
    pub fn state_of(unique: &str) -> Option<CreatorState> {
        let mut parts = unique.split('-');
        let there = u32::from_str_radix(parts.next()?, 16).ok()?;
        let pid: u32 = parts.next()?.parse().ok()?;
        let begun: u64 = parts.next()?.parse().ok()?;
        if there != machine_hash(&machine(), &boot()) {
            return Some(CreatorState::Elsewhere);
        }
        Some(match start_time(pid) {
            Some(started) if started == begun => CreatorState::Alive,
            _ => CreatorState::Dead,
        })
    }

    pub fn mark(&self, properties: &mut Properties) {
        properties.insert(KEY.into(), self.to_string());
    }

    /// Properties that take the claim off a finished instance.
    pub(super) fn cleared() -> Properties {
        Properties::from([(KEY.to_owned(), String::new())])
    }

    /// The claim on an instance, when it has one that can be read.
    pub fn recorded_on(instance: &Instance) -> Option<Self> {
        instance.properties.get(KEY)?.parse().ok()
    }

    /// The machine and the process, for people.
    pub fn origin(&self) -> String {
        format!("{}, process {}", self.machine, self.pid)
    }

    pub fn state(&self) -> CreatorState {
        if self.machine != machine() {
            return CreatorState::Elsewhere;
        }
        if self.boot != boot() {
            return CreatorState::Dead;
        }
        match start_time(self.pid) {
            Some(started) if started == self.started => CreatorState::Alive,
            _ => CreatorState::Dead,
        }
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

/// FNV-1a: the same on every build and machine.
fn machine_hash(machine: &str, boot: &str) -> u32 {
    machine
        .bytes()
        .chain([0])
        .chain(boot.bytes())
        .fold(0x811c_9dc5, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        })
}

/// Field 22 of `/proc/PID/stat`, counted after the command name, which may
/// itself contain spaces and parentheses.
#[cfg(target_os = "linux")]
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    // A zombie no longer works on anything.
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Start times are not told here: whichever process has the number now counts
/// as the maker, so that nothing is taken for left over while it is made.
#[cfg(not(target_os = "linux"))]
fn started(pid: u32) -> Option<u64> {
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
    fn survives_the_trip_to_the_server() {
        let creator = Creator::new();
        assert_eq!(creator.to_string().parse::<Creator>(), Ok(creator.clone()));
        assert_eq!(creator.state(), CreatorState::Alive);
        assert_ne!(creator, Creator::new());
        for bad in ["", "a b c", "a b x 1 1"] {
            assert!(bad.parse::<Creator>().is_err());
        }
    }

    #[test]
    fn the_short_form_tells_the_same() {
        let mut creator = Creator::new();
        assert_eq!(
            Creator::state_of(&creator.unique()),
            Some(CreatorState::Alive)
        );
        creator.started += 1;
        assert_eq!(
            Creator::state_of(&creator.unique()),
            Some(CreatorState::Dead)
        );
        creator.machine = "other".into();
        assert_eq!(
            Creator::state_of(&creator.unique()),
            Some(CreatorState::Elsewhere)
        );
        assert_eq!(Creator::state_of("x"), None);
    }

    #[test]
    fn another_process_of_the_same_id_is_not_the_maker() {
        let mut creator = Creator::new();
        creator.started += 1;
        assert_eq!(creator.state(), CreatorState::Dead);
        creator.boot = "earlier".into();
        assert_eq!(creator.state(), CreatorState::Dead);
        creator.machine = "other".into();
        assert_eq!(creator.state(), CreatorState::Elsewhere);
    }
}
