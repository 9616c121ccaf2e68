//! Rows of the tables of attempts.

/// Who sends the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The pixel with a restricted policy.
    Restricted,
    /// The unrestricted pixel, which is also the neighbor.
    Open,
    /// The gateway, or root in the restricted pixel.
    Trusted,
}

/// What must succeed, so that a failed attempt proves anything.
#[derive(Debug, Clone, Copy)]
pub enum Control {
    /// The same attempt by the unrestricted pixel.
    Same,
    /// Another line by this sender.
    Line(Sender, &'static str),
    /// Packets arrive at all witnesses.
    Witnesses,
}

/// A row of a table of attempts. Facts replace words in braces.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub sender: Sender,
    pub control: Control,
    pub name: &'static str,
    /// Verbs of the probe with their arguments.
    pub lines: &'static [&'static str],
}

/// An attempt that succeeds without a policy.
pub const fn open(name: &'static str, lines: &'static [&'static str]) -> Row {
    controlled(Control::Same, name, lines)
}

/// An attempt that fails for every pixel.
pub const fn isolated(name: &'static str, lines: &'static [&'static str]) -> Row {
    controlled(Control::Witnesses, name, lines)
}

pub const fn controlled(
    control: Control,
    name: &'static str,
    lines: &'static [&'static str],
) -> Row {
    Row {
        sender: Sender::Restricted,
        control,
        name,
        lines,
    }
}

/// The same attempt by the unrestricted pixel.
pub const fn by_open(row: Row, name: &'static str) -> Row {
    Row {
        sender: Sender::Open,
        name,
        ..row
    }
}
