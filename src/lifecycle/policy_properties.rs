//! What is put on record of a new pixel's policy, before the pixel exists.

use super::network::{Network, policy};
use crate::egress::{self, Mode, Policy};
use crate::model::{Backend, CloneSource, Error, Properties, Result, Subject};

/// The records of a new pixel. `installs`: it still fetches packages before it
/// is ready; what that needs is then allowed until [`super::narrow`].
pub fn records_of_new(network: &Network, policy: &Policy, installs: bool) -> Properties {
    if *policy == Policy::new(Mode::Unrestricted, []) {
        return Properties::new();
    }
    if matches!(network, Network::External(_)) && policy.mode == Mode::Unrestricted {
        return Properties::new();
    }
    let mut properties = Properties::from([(egress::KEY.to_owned(), policy.to_record())]);
    if installs && policy.mode == Mode::Allowlist {
        let interim = policy.in_mode(Mode::Agent);
        properties.insert(egress::INTERIM.to_owned(), interim.to_record());
    }
    properties
}

/// What is put on record over what a clone inherits: the policy that was
/// `asked` for, else the `usual` one where the source is under none.
pub async fn records_of_clone(
    backend: &dyn Backend,
    asked: Option<&Policy>,
    usual: &Policy,
    from: &CloneSource,
) -> Result<Properties> {
    let record = |policy: &Policy| {
        Properties::from([
            (egress::KEY.to_owned(), policy.to_record()),
            (egress::INTERIM.to_owned(), String::new()),
        ])
    };
    if let Some(asked) = asked {
        return Ok(record(asked));
    }
    if usual.mode == Mode::Unrestricted {
        return Ok(Properties::new());
    }
    let source = origin_policy(backend, from).await?;
    Ok(match source.mode {
        Mode::Unrestricted => record(usual),
        _ => Properties::new(),
    })
}

/// The policy on record of a pixel, or of one of its checkpoints.
pub async fn origin_policy(backend: &dyn Backend, from: &CloneSource) -> Result<Policy> {
    let mut source = backend.get(&from.pixel).await?;
    if let Some(label) = &from.label {
        let checkpoints = backend.checkpoints(&from.pixel).await?;
        let found = checkpoints.into_iter().find(|found| found.label == *label);
        let missing = || Error::NotFound(Subject::checkpoint(&from.pixel, label));
        source.properties = found.ok_or_else(missing)?.properties;
    }
    policy(&source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::GuestPolicy;

    #[test]
    fn what_is_unrestricted_needs_no_record_and_what_installs_has_two() {
        let network = Network::External(GuestPolicy { dns: Vec::new() });
        let open = Policy::new(Mode::Unrestricted, []);
        assert!(records_of_new(&network, &open, true).is_empty());
        for (mode, installs, records) in [
            (Mode::Agent, true, 1),
            (Mode::Allowlist, false, 1),
            (Mode::Allowlist, true, 2),
        ] {
            let made = records_of_new(&network, &open.in_mode(mode), installs);
            assert_eq!(made.len(), records, "{mode} {installs}");
        }
    }
}
