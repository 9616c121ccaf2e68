//! Attempts to read or disturb the traffic of the neighbor on the isolated
//! bridge, and to send data under its identity.

use std::time::Duration;

use super::Attempt;
use super::behind_gateway::{ATTACKER, GATEWAY, NEIGHBOR, UPLINK};
use super::facts::Facts;
use super::lab::{Lab, NOT_OBSERVED, Sender, judge};
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
pub async fn fragments(lab: &mut Lab, facts: &Facts) -> Result<Attempt> {
    let mut tail_token = None;
    for (sender, part) in [(Sender::Open, "head"), (Sender::Restricted, "tail")] {
        let line = format!("piece {{gateway-mac}} {{own-mac}} {{open}} {{denied}} 4711 {part}");
        let line = facts.fill_one(sender, &line)?;
        let token = lab.token();
        lab.send(sender, token, line).await?;
        tail_token = Some(token);
    }
    lab.witnesses_work().await?;
    let uplink = &mut lab.observers[UPLINK].witness;
    let ways = match tail_token.is_some_and(|token| uplink.saw(token)) {
        true => vec!["left the gateway with the neighbor's address".to_owned()],
        false => Vec::new(),
    };
    Ok(judge(FRAGMENTS, &ways, Ok(())))
}

/// The restricted pixel sends frames with the hardware address of the neighbor,
/// then of the gateway, while the other of the two receives packets.
pub async fn thefts(lab: &mut Lab, facts: &Facts) -> Result<[Attempt; 2]> {
    let to_neighbor = "packets 20 {open-mac} {gateway-mac} {gateway} {open}";
    let theft = "steal {open-mac} {gateway-mac} 200";
    let (before, during, heard) =
        steal(lab, facts, (Sender::Trusted, to_neighbor), NEIGHBOR, theft).await?;
    let mut ways = Vec::new();
    if heard > 0 {
        ways.push(format!("read {heard} of {PACKETS} packets"));
    }
    let reading = judge_arrivals(READING, ways, before, during);

    let to_gateway = "packets 20 {gateway-mac} {own-mac} {own} {gateway}";
    let theft = "steal {gateway-mac} {open-mac} 200";
    let (before, during, _) = steal(lab, facts, (Sender::Open, to_gateway), GATEWAY, theft).await?;
    let disturbing = judge_arrivals(DISTURBING, Vec::new(), before, during);
    Ok([reading, disturbing])
}

/// Returns how many packets arrive at the observer before and during the attack,
/// and how many the attacker receives.
async fn steal(
    lab: &mut Lab,
    facts: &Facts,
    (sender, packets): (Sender, &str),
    observer: usize,
    theft: &str,
) -> Result<(usize, usize, usize)> {
    let packets = facts.fill_one(sender, packets)?;
    let theft = facts.fill_one(Sender::Restricted, theft)?;
    let before = lab.token();
    lab.send(sender, before, packets.clone()).await?;
    let (attack, during) = (lab.token(), lab.token());
    let victim = match sender {
        Sender::Open => &mut lab.open,
        _ => &mut lab.trusted,
    };
    let attack = [(attack, theft)];
    let packets = [(during, packets)];
    tokio::try_join!(lab.restricted.run(&attack), async {
        tokio::time::sleep(HEAD_START).await;
        victim.run(&packets).await
    })?;
    // Packets of the two machines move their addresses back to their ports.
    lab.witnesses_work().await?;
    let arrived = &mut lab.observers[observer].witness;
    let (before, arrived) = (arrived.count(before), arrived.count(during));
    Ok((
        before,
        arrived,
        lab.observers[ATTACKER].witness.count(during),
    ))
}

fn judge_arrivals(name: &str, mut ways: Vec<String>, before: usize, during: usize) -> Attempt {
    let proven = match before < MIN_ARRIVED {
        true => Err(NOT_OBSERVED),
        false => Ok(()),
    };
    if proven.is_ok() && during < MIN_ARRIVED {
        let lost = PACKETS - during;
        ways.push(format!("{lost} of {PACKETS} packets were lost"));
    }
    judge(name, &ways, proven)
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
            let attempt = judge_arrivals("a", Vec::new(), before, during);
            assert_eq!(attempt.result, verdict);
        }
    }
}
