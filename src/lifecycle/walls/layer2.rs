//! Attempts to read or disturb the traffic of the neighbor on the isolated
//! bridge, and to send data under its identity.

use std::time::Duration;

use super::attempt::{Attempt, judge};
use super::behind_gateway::{ATTACKER, GATEWAY, NEIGHBOR, UPLINK};
use super::lab::{Lab, NOT_OBSERVED};
use super::row::Sender;
use crate::model::Result;

const FRAGMENTS: &str = "a fragment in a datagram of the neighbor";
const READING: &str = "reading packets to the neighbor, by its hardware address";
const DISTURBING: &str = "cutting off the neighbor, by the gateway's hardware address";
pub const NAMES: [&str; 3] = [FRAGMENTS, READING, DISTURBING];

/// Number of packets that must arrive during an attack.
const PACKETS: usize = 20;
/// A bridge that learns loses all of them. Congestion may lose a few.
const MIN_ARRIVED: usize = PACKETS / 2;
/// Time until the attack has started.
const HEAD_START: Duration = Duration::from_millis(200);

/// The neighbor sends the first fragment of a datagram, the restricted pixel the
/// second.
pub async fn fragments(lab: &mut Lab) -> Result<Attempt> {
    let mut tail_token = None;
    for (sender, part) in [(Sender::Open, "head"), (Sender::Restricted, "tail")] {
        let line = format!("fragment {{gateway-mac}} {{own-mac}} {{open}} {{denied}} {part}");
        let token = lab.token();
        lab.send(sender, token, &line).await?;
        tail_token = Some(token);
    }
    lab.witnesses_work().await?;
    let uplink = &mut lab.observers[UPLINK].witness;
    let has_left = tail_token.is_some_and(|token| uplink.saw(token));
    let way = has_left.then(|| "left the gateway with the neighbor's address".to_owned());
    Ok(judge(FRAGMENTS, way.as_slice(), None))
}

/// The restricted pixel sends frames with the hardware address of the neighbor,
/// then of the gateway, while the other of the two receives packets.
pub async fn thefts(lab: &mut Lab) -> Result<[Attempt; 2]> {
    let to_neighbor = "packets 20 {open-mac} {gateway-mac} {gateway} {open}";
    let theft = "storm 200 {gateway-mac} {open-mac} 88b5";
    let arrived = steal(lab, (Sender::Trusted, to_neighbor), NEIGHBOR, theft).await?;
    let mut ways = Vec::new();
    if arrived.at_attacker > 0 {
        ways.push(format!("read {} of {PACKETS} packets", arrived.at_attacker));
    }
    let reading = judge_arrivals(READING, ways, &arrived);

    let to_gateway = "packets 20 {gateway-mac} {own-mac} {own} {gateway}";
    let theft = "storm 200 {open-mac} {gateway-mac} 88b5";
    let arrived = steal(lab, (Sender::Open, to_gateway), GATEWAY, theft).await?;
    let disturbing = judge_arrivals(DISTURBING, Vec::new(), &arrived);
    Ok([reading, disturbing])
}

/// Numbers of packets that arrive.
struct Arrivals {
    /// At the receiver, before the attack.
    before: usize,
    /// At the receiver, during the attack.
    during: usize,
    at_attacker: usize,
}

/// Sends packets before and during the attack.
async fn steal(
    lab: &mut Lab,
    (sender, packets): (Sender, &str),
    receiver: usize,
    theft: &str,
) -> Result<Arrivals> {
    let before = lab.token();
    lab.send(sender, before, packets).await?;
    let (attack, during) = (lab.token(), lab.token());
    let attack = [(attack, lab.facts.fill_one(Sender::Restricted, theft)?)];
    let packets = [(during, lab.facts.fill_one(sender, packets)?)];
    let [restricted, open, trusted] = &mut lab.sessions;
    let victim = match sender {
        Sender::Open => open,
        _ => trusted,
    };
    tokio::try_join!(restricted.run(&attack), async {
        tokio::time::sleep(HEAD_START).await;
        victim.run(&packets).await
    })?;
    // Packets of the two machines move their addresses back to their ports.
    lab.witnesses_work().await?;
    let at_receiver = &mut lab.observers[receiver].witness;
    Ok(Arrivals {
        before: at_receiver.count(before),
        during: at_receiver.count(during),
        at_attacker: lab.observers[ATTACKER].witness.count(during),
    })
}

fn judge_arrivals(name: &str, mut ways: Vec<String>, arrived: &Arrivals) -> Attempt {
    let unproven = (arrived.before < MIN_ARRIVED).then_some(NOT_OBSERVED);
    if unproven.is_none() && arrived.during < MIN_ARRIVED {
        let lost = PACKETS - arrived.during;
        ways.push(format!("{lost} of {PACKETS} packets were lost"));
    }
    judge(name, &ways, unproven)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::Verdict;

    #[test]
    fn lost_packets_count_only_if_they_arrive_without_attack() {
        for (before, during, verdict) in [
            (20, 20, Verdict::Blocked),
            (20, 0, Verdict::GotOut),
            (0, 0, Verdict::Inconclusive),
        ] {
            let arrived = Arrivals {
                before,
                during,
                at_attacker: 0,
            };
            let attempt = judge_arrivals("a", Vec::new(), &arrived);
            assert_eq!(attempt.result, verdict);
        }
    }
}
