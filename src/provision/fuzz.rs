//! Fuzz tests of the provisioning record, which root in the pixel can write.

use super::status;
use crate::fuzz::{fuzz, text};

#[test]
fn steps() {
    let words = "now= boot= runner= system= step= wanted= hash= state= running done failed \
                 exit_code= started= ended= unit= active last=";
    let words: Vec<&str> = words.split(' ').collect();
    fuzz("steps", 8000, &words, |bytes| {
        let report = status::parse(&text(bytes));
        for step in &report.steps {
            assert!(step.duration.is_none_or(|seconds| seconds >= 0));
        }
        let states: Vec<_> = report.steps.iter().map(|s| s.status.as_str()).collect();
        (report.overall.as_str(), states)
    });
}
