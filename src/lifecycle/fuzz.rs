//! Fuzz tests of records and of data from pixels: sessions and users.

use super::session::{self, Multiplexer};
use super::{Creator, expiry, user};
use crate::fuzz::{fuzz, pixel, text};

#[test]
fn sessions() {
    let words = [
        "name=",
        "session_name=",
        "clients=",
        "ended=",
        "task_ended_at=",
        "\t",
        "zmx",
    ];
    fuzz("sessions", 10_000, &words, |bytes| {
        let text = text(bytes);
        let mut kinds = Vec::new();
        for keeper in [Multiplexer::Zmx, Multiplexer::Tmux] {
            for line in text.lines() {
                let seen = session::parse(keeper, line);
                let Some(seen) = seen else { continue };
                assert!(!seen.name.is_empty());
                kinds.push((seen.running, seen.clients.is_some()));
            }
        }
        kinds.truncate(3);
        kinds
    });
}

#[test]
fn users() {
    let words = ["root:x:0:0:", ":/bin/bash", "1000", ":", "4294967295"];
    fuzz("passwd", 8000, &words, |bytes| {
        let text = text(bytes);
        let (wanted, passwd) = text.split_once('\n').unwrap_or((&text, ""));
        let found = user::find_in_passwd(passwd, wanted);
        found.map(|user| (user.ids.uid, user.environment().len()))
    });
}

#[test]
fn records() {
    let words = ["2026-11-24T08:00:00Z", " ", "px-tmp-", "-"];
    fuzz("records", 12_000, &words, |bytes| {
        let text = text(bytes);
        let claim = text.parse::<Creator>().ok();
        if let Some(claim) = &claim {
            let written = claim.to_string();
            assert_eq!(written.parse().as_ref(), Ok(claim));
        }
        let record = [(expiry::KEY.to_owned(), text.clone().into_owned())];
        let pixel = pixel(record.into());
        let _ = expiry::remaining(&pixel);
        let over = expiry::expires_at(&pixel);
        (
            claim.is_some(),
            Creator::state_of_id(&text).is_some(),
            over.is_some(),
        )
    });
}
