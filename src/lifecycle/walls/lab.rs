//! Makes the attempts of a table from one pixel and judges each by the replies
//! and by the packets that arrive where they must not.

use std::collections::BTreeMap;
use std::time::Duration;

use super::attempt::{Attempt, Verdict, judge};
use super::facts::{Facts, Filled};
use super::probe::{Session, Token, Witness};
use super::row::{Control, Row, Sender};
use crate::model::Result;

/// How long a packet may take to a witness.
const ARRIVAL: Duration = Duration::from_secs(2);
const REPLY_CHARACTERS: usize = 60;
pub const NOT_OBSERVED: &str = "packets do not reach the observers";

/// A witness at an interface.
pub struct Observer {
    pub witness: Witness,
    /// What the arrival of a packet means, such as "left the gateway". `None` if
    /// the packets of attempts may arrive there.
    pub label: Option<&'static str>,
    /// A line whose packet the witness sees. Facts replace words in braces.
    pub marker: (Sender, &'static str),
}

/// The running probes.
pub struct Lab {
    /// One session for each [`Sender`], in that order.
    pub sessions: [Session; 3],
    pub observers: Vec<Observer>,
    pub facts: Facts,
    run: u16,
    last_number: u16,
}

impl Lab {
    pub fn new(run: u16, sessions: [Session; 3], observers: Vec<Observer>, facts: Facts) -> Self {
        Self {
            sessions,
            observers,
            facts,
            run,
            last_number: 0,
        }
    }

    /// Waits until all witnesses have started.
    pub async fn ready(&mut self) -> Result<()> {
        for observer in &mut self.observers {
            observer.witness.ready().await?;
        }
        Ok(())
    }

    pub fn token(&mut self) -> Token {
        self.last_number += 1;
        Token {
            run: self.run,
            number: self.last_number,
        }
    }

    /// Makes one attempt, with the facts in place of words in braces. Returns the
    /// reply.
    pub async fn send(
        &mut self,
        sender: Sender,
        token: Token,
        line: &str,
    ) -> Result<Option<String>> {
        let line = self.facts.fill_one(sender, line)?;
        let session = &mut self.sessions[sender as usize];
        Ok(session.run(&[(token, line)]).await?.pop().flatten())
    }

    /// Whether packets arrive at all witnesses. All earlier packets have then
    /// arrived too.
    pub async fn witnesses_work(&mut self) -> Result<bool> {
        // After an attempt with the hardware address of another machine, the first
        // packet may get lost. The owner's own packets move the address back.
        Ok(self.markers_arrive().await? || self.markers_arrive().await?)
    }

    async fn markers_arrive(&mut self) -> Result<bool> {
        let mut all = true;
        for at in 0..self.observers.len() {
            let token = self.token();
            let (sender, line) = self.observers[at].marker;
            self.send(sender, token, line).await?;
            all &= self.observers[at].witness.wait_for(token, ARRIVAL).await;
        }
        Ok(all)
    }

    /// How an attempt has succeeded.
    pub fn evidence(&mut self, token: Token, reply: Option<&String>) -> Vec<String> {
        let reply = reply.map(|reply| {
            let reply: String = reply.trim().chars().take(REPLY_CHARACTERS).collect();
            format!("reply: {reply}")
        });
        let mut ways: Vec<String> = reply.into_iter().collect();
        for observer in &mut self.observers {
            if let Some(label) = observer.label
                && observer.witness.saw(token)
            {
                ways.push(label.to_owned());
            }
        }
        ways
    }

    /// Makes the attempts of a table. The senders work at the same time.
    pub async fn make_all(&mut self, rows: &[Row]) -> Result<Vec<Attempt>> {
        let mut queues = Queues::default();
        let planned: Vec<_> = rows.iter().map(|row| self.plan(row, &mut queues)).collect();
        let is_working = self.witnesses_work().await?;
        let replies = self.run(queues).await?;
        let is_working = is_working && self.witnesses_work().await?;
        let mut attempts = Vec::new();
        for (row, planned) in rows.iter().zip(planned) {
            let (token, control) = match planned {
                Ok(planned) => planned,
                Err(reason) => {
                    attempts.push(Attempt::new(row.name, Verdict::NotRun, reason));
                    continue;
                }
            };
            let ways = self.evidence(token, replies.get(&token.number));
            let control =
                control.map(|control| self.evidence(control, replies.get(&control.number)));
            let unproven = match control {
                Some(ways) if ways.is_empty() => Some("fails without a policy too"),
                _ if !is_working => Some(NOT_OBSERVED),
                _ => None,
            };
            attempts.push(judge(row.name, &ways, unproven));
        }
        Ok(attempts)
    }

    /// Queues the lines of a row and of its control. Returns their tokens, or the
    /// reason why the attempt is impossible.
    fn plan(&mut self, row: &Row, queues: &mut Queues) -> Filled<(Token, Option<Token>)> {
        let control = match row.control {
            Control::Same => Some((Sender::Open, row.lines)),
            Control::Line(sender, ref line) => Some((sender, std::slice::from_ref(line))),
            Control::Witnesses => None,
        };
        let mut queue = |sender: Sender, lines: &[&str]| -> Filled<Token> {
            let token = self.token();
            let filled = lines.iter().map(|line| self.facts.fill(sender, line));
            let filled: Filled<Vec<_>> = filled.collect();
            let filled = filled?.concat().into_iter().map(|line| (token, line));
            queues.0[sender as usize].extend(filled);
            Ok(token)
        };
        let token = queue(row.sender, row.lines)?;
        let control = control.map(|(sender, lines)| queue(sender, lines));
        Ok((token, control.transpose()?))
    }

    /// Returns the first reply of each attempt, by the number of its token.
    async fn run(&mut self, queues: Queues) -> Result<BTreeMap<u16, String>> {
        let [restricted, open, trusted] = &mut self.sessions;
        let replies = tokio::try_join!(
            restricted.run(&queues.0[0]),
            open.run(&queues.0[1]),
            trusted.run(&queues.0[2]),
        )?;
        let replies = [replies.0, replies.1, replies.2].concat();
        let tokens = queues.0.iter().flatten().map(|(token, _)| token.number);
        let mut first = BTreeMap::new();
        for (number, reply) in tokens.zip(replies) {
            if let Some(reply) = reply {
                first.entry(number).or_insert(reply);
            }
        }
        Ok(first)
    }
}

/// The lines of each sender.
#[derive(Default)]
struct Queues([Vec<(Token, String)>; 3]);
