//! Faults of the soak test.

use std::process::Child;

use rustix::process::Signal;

use super::CLIENTS;
use crate::support::env::TestEnv;
use crate::support::private_daemon::{Ballast, PrivateDaemon, signal};
use crate::support::rounds::Moments;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// SIGKILL to the client with this number.
    Killed(usize),
    Interrupted(usize),
    DaemonKilled,
    DaemonRestarted,
    PoolFull,
    GatewayStopped,
    GatewayGone,
}

impl Fault {
    /// Returns the fault of a round. All faults occur within twelve rounds.
    pub fn of_round(round: u64, moments: &mut Moments) -> Self {
        let client = moments.below(CLIENTS);
        match round % 12 {
            1 | 4 | 9 => Self::Killed(client),
            2 | 7 => Self::Interrupted(client),
            3 => Self::PoolFull,
            6 => Self::DaemonKilled,
            8 => Self::GatewayStopped,
            10 => Self::DaemonRestarted,
            11 => Self::GatewayGone,
            _ => Self::None,
        }
    }

    /// Fills the pool for `PoolFull` until the returned guard is dropped.
    pub fn before(self, daemon: &PrivateDaemon) -> Option<Ballast> {
        (self == Self::PoolFull).then(|| daemon.fill_pool())
    }

    /// Whether the fault occurs while the commands are running.
    pub fn strikes(self) -> bool {
        !matches!(self, Self::None | Self::PoolFull)
    }

    pub fn strike(self, daemon: &mut PrivateDaemon, children: &[Child]) {
        match self {
            Self::None | Self::PoolFull => {}
            Self::Killed(client) => signal(children[client].id(), Signal::KILL),
            Self::Interrupted(client) => signal(children[client].id(), Signal::INT),
            Self::DaemonKilled => daemon.kill(),
            Self::DaemonRestarted => daemon.end(),
            Self::GatewayStopped => daemon.stop_gateway(),
            Self::GatewayGone => {
                daemon.stop_gateway();
                // The deletion fails if a command is restarting the gateway.
                daemon.delete_gateway();
            }
        }
    }

    pub fn heal(self, daemon: &mut PrivateDaemon, env: &TestEnv) {
        match self {
            Self::DaemonKilled | Self::DaemonRestarted => daemon.resume(),
            // The error of a command without a gateway suggests this command.
            Self::GatewayStopped | Self::GatewayGone => {
                daemon.settle();
                env.pixels(["network", "gateway", "rebuild"]).ok();
            }
            _ => {}
        }
    }

    /// Whether the fault explains this exit code of the client's command.
    pub fn explains(self, client: usize, code: i32) -> bool {
        match self {
            Self::None => false,
            Self::Killed(who) => who == client && code == 1009,
            // 1002: SIGINT before the signal handler was installed.
            Self::Interrupted(who) => who == client && matches!(code, 130 | 1002),
            Self::DaemonKilled | Self::DaemonRestarted => matches!(code, 1 | 5 | 125),
            Self::PoolFull => matches!(code, 1 | 125),
            Self::GatewayStopped | Self::GatewayGone => code == 1,
        }
    }

    /// Whether no process remained to roll back or to report the outcome.
    pub fn leaves_doubt(self) -> bool {
        matches!(
            self,
            Self::Killed(_) | Self::DaemonKilled | Self::DaemonRestarted
        )
    }
}
