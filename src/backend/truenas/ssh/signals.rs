//! Converts signal names to numbers.

use russh::Sig;

pub(super) const SIGKILL: i32 = 9;
pub(super) const SIGPIPE: i32 = 13;

/// Returns the Linux number of a signal that ended a command, or 0 if unknown.
pub(super) fn number(signal: &Sig) -> i32 {
    match signal {
        Sig::HUP => 1,
        Sig::INT => 2,
        Sig::QUIT => 3,
        Sig::ILL => 4,
        Sig::ABRT => 6,
        Sig::FPE => 8,
        Sig::KILL => SIGKILL,
        Sig::USR1 => 10,
        Sig::SEGV => 11,
        Sig::PIPE => SIGPIPE,
        Sig::ALRM => 14,
        Sig::TERM => 15,
        Sig::Custom(name) => match name.as_str() {
            "TRAP" => 5,
            "BUS" => 7,
            "USR2" => 12,
            "XCPU" => 24,
            "XFSZ" => 25,
            "SYS" => 31,
            _ => 0,
        },
    }
}
