//! Results of a test that are shown even if it passes.

use std::io::Write;

/// Prints a line to stderr. The test runner captures only what macros print.
pub fn report(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
