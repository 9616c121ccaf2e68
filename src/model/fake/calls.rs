//! The record of calls, and the faults that tests inject into them.

use super::FakeBackend;
use super::state::{State, Stored};
use crate::model::{Error, Name, Result};

type Effect = Box<dyn FnOnce(&mut State) + Send>;

#[derive(Clone, Copy)]
enum Fault {
    Refuse,
    LoseAnswer,
    Stall,
}

/// The calls so far, and the faults of later calls.
#[derive(Default)]
pub(super) struct Calls {
    lines: Vec<String>,
    /// Start of a call's line, and the number of such calls up to and including
    /// the faulty call.
    faults: Vec<(String, usize, Fault)>,
    /// Changes of stalled calls that the server has not made yet.
    pub stalled: Vec<Effect>,
}

impl Calls {
    /// Records a call and returns its fault.
    fn record(&mut self, line: String) -> Option<Fault> {
        let mut due = None;
        self.faults.retain_mut(|(call, countdown, fault)| {
            *countdown -= usize::from(line.starts_with(&*call));
            if *countdown == 0 {
                due = Some(*fault);
            }
            *countdown > 0
        });
        self.lines.push(line);
        due
    }
}

impl FakeBackend {
    /// All recorded calls.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.lines.clone()
    }

    /// Returns the recorded calls and clears the record.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().calls.lines)
    }

    /// The n-th matching call fails and changes nothing.
    pub fn fail_at(&self, call: &str, n: usize) {
        self.add_fault(call, n, Fault::Refuse);
    }

    /// The n-th matching call changes the server but returns
    /// `Error::Unreachable`, because the connection breaks before the answer.
    pub fn lose_answer_at(&self, call: &str, n: usize) {
        self.add_fault(call, n, Fault::LoseAnswer);
    }

    /// The n-th matching call never returns. The server makes the change during
    /// the next [`Backend::wait_idle`].
    pub fn stall_at(&self, call: &str, n: usize) {
        self.add_fault(call, n, Fault::Stall);
    }

    fn add_fault(&self, call: &str, n: usize, fault: Fault) {
        assert!(n > 0, "calls are counted from 1");
        self.lock().calls.faults.push((call.to_owned(), n, fault));
    }

    pub(super) async fn call<T>(
        &self,
        line: String,
        effect: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let fault = self.lock().calls.record(line);
        tokio::task::yield_now().await;
        match fault {
            None => effect(&mut self.lock()),
            Some(Fault::Refuse) => Err(Error::Server {
                code: 500,
                message: "injected failure".into(),
            }),
            Some(Fault::LoseAnswer) => {
                drop(effect(&mut self.lock()));
                Err(Error::Unreachable {
                    endpoint: "the fake server".into(),
                    reason: "the connection broke".into(),
                })
            }
            Some(Fault::Stall) => {
                let late = move |state: &mut State| drop(effect(state));
                self.lock().calls.stalled.push(Box::new(late));
                std::future::pending().await
            }
        }
    }

    /// Runs a call that needs only this pixel.
    pub(super) async fn call_on<T>(
        &self,
        line: String,
        name: &Name,
        effect: impl FnOnce(&mut Stored) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let name = name.clone();
        self.call(line, move |state| effect(state.get(&name)?))
            .await
    }
}
