//! Fuzz tests of input from clients and of the output of jobs in a sandbox.

use std::path::Path;

use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use super::config::Config;
use super::create::ForkArgs;
use super::create_request::CreateRequest;
use super::encoding::{self, Encoding};
use super::exec::{Command, ExecArgs, StartArgs};
use super::files::{EditArgs, ListArgs, WriteArgs};
use super::install::{Client, Setup, Transport};
use super::jobs::{self, Offsets, PollArgs};
use super::state::Store;
use super::stdio;
use super::tools::checkpoints::RestoreArgs;
use crate::fuzz::{fuzz, text};

#[test]
fn jobs_in_a_sandbox() {
    let words = [
        "running - ",
        "exited 0 ",
        "killed 137 ",
        "lost - ",
        "\n",
        "0 0\n",
    ];
    fuzz("mcp-jobs", 30_000, &words, |bytes| {
        // Clients can send any offset.
        let from = |at: usize| match bytes.get(at) {
            Some(0xff) => u64::MAX - 1,
            other => other.map_or(0, |byte| u64::from(*byte)),
        };
        let from = Offsets {
            stdout: from(0),
            stderr: from(1),
        };
        let _ = jobs::check_job_id(&text(bytes));
        let answer = bytes.get(2..).unwrap_or_default();
        let progress = jobs::parse_progress(answer, from)?;
        assert!(progress.stdout_offset >= from.stdout && progress.stderr_offset >= from.stderr);
        let state = std::mem::discriminant(&progress.state);
        Some((state, progress.exit_code.is_some(), progress.more))
    });
}

#[test]
fn listings_and_contents() {
    let words = ["f\0", "d\0", "l\0", "0644\0", "\0", "../x\0"];
    fuzz("mcp-listings", 20_000, &words, |bytes| {
        let listing = encoding::parse_listing("/home/pixel", bytes);
        for entry in &listing.entries {
            assert!(entry.path.starts_with("/home/pixel/"));
        }
        let part = bytes.len().min(9);
        let (old, new) = bytes.split_at(part / 2);
        if let Ok((edited, count)) = encoding::replace_text(bytes, old, new, true) {
            let grown = count as usize * new.len();
            assert_eq!(
                edited.len(),
                bytes.len() - count as usize * old.len() + grown
            );
        }
        let content = encoding::encode_content(bytes.to_vec(), part as u64, 0);
        let truncated = content.truncated;
        let back = encoding::decode_content(content.content, Some(content.encoding)).unwrap();
        assert_eq!(back, bytes[..back.len()]);
        let base64 = encoding::decode_content(text(bytes).into_owned(), Some(Encoding::Base64));
        (listing.entries.len().min(3), truncated, base64.is_ok())
    });
}

/// Every response is valid JSON with an error code.
#[test]
fn lines_of_a_client() {
    let words = [
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\"",
        "}\n",
        "\"params\":{",
        "\"method\":\"notifications/cancelled\"",
        "\"requestId\":",
        "\"id\":null",
        "\n",
        "[",
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    fuzz("mcp-lines", 2500, &words, |bytes| {
        let (to, mut from) = tokio::io::duplex(64 * 1024);
        let nowhere = Path::new("/nowhere/at/all.sock");
        let (ended, responses) = runtime.block_on(async {
            let serving = stdio::run(bytes, to, nowhere, "/mcp", || Err("no server".into()));
            let mut responses = String::new();
            let reading = tokio::io::AsyncReadExt::read_to_string(&mut from, &mut responses);
            let (ended, _) = tokio::join!(serving, reading);
            (ended.is_ok(), responses)
        });
        let lines = responses.lines();
        for line in lines.clone() {
            let response: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(response["error"]["code"].is_i64(), "{line}");
        }
        (ended, lines.count().min(3))
    });
}

#[test]
fn arguments() {
    let words = [
        "\"name\":",
        "\"command\":[",
        "\"env\":{",
        "\"cwd\":",
        "\"wait_sec\":",
        "\"ttl\":\"2h\"",
        "\"memory\":",
        "\"egress\":\"agent\"",
        "\"allow\":[",
        "\"encoding\":\"base64\"",
        "null",
        "\"job_id\":\"job-0123abcd\"",
        "\"stdout_offset\":",
        "\"path\":",
        "\"cpu\":\"0-3\"",
        "\"old_string\":",
        "\"new_string\":",
        "\"recursive\":true",
        "\"label\":",
    ];
    let config = Config::sample();
    fuzz("mcp-arguments", 4000, &words, |bytes| {
        fn parsed<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
            serde_json::from_slice(bytes).ok()
        }
        let others = [
            parsed::<ExecArgs>(bytes).is_some(),
            parsed::<PollArgs>(bytes).is_some(),
            parsed::<WriteArgs>(bytes).is_some(),
            parsed::<EditArgs>(bytes).is_some(),
            parsed::<ListArgs>(bytes).is_some(),
            parsed::<ForkArgs>(bytes).is_some(),
            parsed::<RestoreArgs>(bytes).is_some(),
        ];
        let command = parsed::<StartArgs>(bytes)
            .map(|args| Command::new(args.command, args.cwd, args.env).is_ok());
        let now = OffsetDateTime::UNIX_EPOCH;
        let record = parsed::<CreateRequest>(bytes)
            .map(|request| request.into_record(None, None, now, &config).is_ok());
        (others, command, record)
    });
}

/// Loads a state file with any content. An unreadable file is renamed.
#[test]
fn state_files() {
    let words = [
        "\"server\":",
        "\"sandboxes\":[",
        "\"status\":\"running\"",
        "\"created_at\":",
    ];
    let limits = Config::sample().limits;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.json");
    fuzz("mcp-state", 500, &words, |bytes| {
        std::fs::write(&path, bytes).unwrap();
        let loaded = Store::load(&path, "here");
        let Ok((store, renamed)) = loaded else {
            return (false, 0);
        };
        if let Some(renamed) = &renamed {
            assert_eq!(std::fs::read(renamed).unwrap(), bytes);
            assert!(!path.exists() && store.all().is_empty());
            std::fs::remove_file(renamed).unwrap();
        }
        for record in store.all() {
            let now = OffsetDateTime::UNIX_EPOCH;
            let _ = super::response::SandboxView::new(&record, now, &limits);
            let _ = super::reaper::decide(now, &record, &limits);
        }
        (renamed.is_some(), store.all().len().min(4))
    });
}

/// Configuration files of clients with any content.
#[test]
fn files_of_clients() {
    let words = [
        "\"mcpServers\":{",
        "\"mcp\":{",
        "[mcp_servers.pixels]\n",
        "\"pixels\":",
        "{}",
    ];
    let dir = tempfile::tempdir().unwrap();
    let transport = Transport::Stdio {
        program: "/usr/bin/pixels".into(),
    };
    fuzz("mcp-clients", 120, &words, |bytes| {
        let mut outcomes = Vec::new();
        for client in [Client::Claude, Client::Codex] {
            let setup = Setup::for_client(client, &transport, dir.path());
            std::fs::create_dir_all(setup.file.parent().unwrap()).unwrap();
            std::fs::write(&setup.file, bytes).unwrap();
            let outcome = setup.write();
            outcomes.push(outcome.is_ok());
            if outcome.is_ok() {
                // The file has the entry and is still valid.
                let second = setup.write().unwrap();
                assert_eq!(second, super::install::Written::Unchanged);
            } else {
                assert_eq!(std::fs::read(&setup.file).unwrap(), bytes);
            }
        }
        outcomes
    });
}
