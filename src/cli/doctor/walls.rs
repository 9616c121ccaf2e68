//! `pixels doctor --walls`

use crate::cli::{Context, error_report, from_settings};
use crate::exit::{self, ExitWith};
use crate::lifecycle::{self, Attempt, Proof, Verdict};
use crate::ui::Row;

/// Exit code if an attempt gets out.
const GOT_OUT: u8 = 2;

impl Row for Attempt {
    const HEADERS: &'static [&'static str] = &["RESULT", "ATTEMPT", "DETAIL"];

    fn cells(&self) -> Vec<String> {
        let result = match self.result {
            Verdict::Blocked => "blocked",
            Verdict::GotOut => "GOT OUT",
            Verdict::Inconclusive => "inconclusive",
            Verdict::NotRun => "not run",
        };
        vec![result.into(), self.attempt.clone(), self.detail.clone()]
    }
}

/// Reports errors with the exit code 1: their own code may be 2, which means
/// here that an attempt got out.
pub async fn run(context: &Context) -> anyhow::Result<()> {
    let proof = match prove(context).await {
        Err(error) if exit::classify(&error).0 != exit::INTERRUPTED => {
            error_report::report(&context.ui, &error, exit::FAILURE);
            return Err(ExitWith(exit::FAILURE).into());
        }
        outcome => outcome?,
    };
    context.ui.rows(&proof.attempts, "No attempts.");
    for leftover in &proof.leftovers {
        context.ui.warn(&format!("left behind: {leftover}"));
    }
    let count = |result| {
        let attempts = proof.attempts.iter();
        attempts.filter(|it| it.result == result).count()
    };
    let (blocked, got_out) = (count(Verdict::Blocked), count(Verdict::GotOut));
    let unproven = proof.attempts.len() - blocked - got_out;
    context.ui.status(&format!(
        "{} attempts: {blocked} blocked, {got_out} got out, {unproven} without proof",
        proof.attempts.len()
    ));
    match (got_out, unproven) {
        (0, 0) => Ok(()),
        (0, _) => Err(ExitWith(exit::FAILURE).into()),
        _ => Err(ExitWith(GOT_OUT).into()),
    }
}

async fn prove(context: &Context) -> anyhow::Result<Proof> {
    let backend = context.backend()?;
    let defaults = from_settings::instance_defaults(context, None)?;
    let image = from_settings::resolve_default_image(context, &defaults).await?;
    let spinner = context.ui.spinner();
    let progress = |phase: &str| spinner.step(phase);
    let proof = lifecycle::test_walls(backend, context.cancel(), &defaults, &image, &progress);
    Ok(proof.await?)
}
