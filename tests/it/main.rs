//! All integration tests, in one binary. Those in `incus_*` files need the
//! real daemon, which `support::lab` brings up with the code of `pixels setup`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../picture/screen.rs"]
mod picture_screen;
mod support;

mod base;
mod checkpoints_at_once;
mod cli_console;
mod cli_exec;
mod cli_lifecycle;
mod cli_output;
mod cli_scripts;
mod cli_streams;
mod connections;
mod dependencies;
mod docs;
mod egress_escapes;
mod egress_git;
mod egress_pixel;
mod egress_pixel_escapes;
mod egress_pixel_files;
mod egress_walls;
mod faults_daemon;
mod faults_gateway;
mod faults_signals;
mod faults_wire;
mod forward;
mod host;
mod incus_events;
mod layering;
mod lifetime;
mod mcp_cancel;
mod mcp_clients;
mod mcp_crash;
mod mcp_load;
mod mcp_security;
mod mcp_stdio;
mod mcp_tools;
mod packaging;
mod provision;
mod readme;
mod remote;
mod scripts;
mod soak;
mod too_large;
mod transfer;
mod transfer_large;
mod truenas;
mod truenas_faults;
mod truenas_files;
mod truenas_guard;
mod truenas_network;

#[test]
fn every_file_is_listed() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = std::fs::read_to_string(here.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(here).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let stem = name.trim_end_matches(".rs");
        assert!(
            stem == "main" || main.contains(&format!("mod {stem};")),
            "{name} is not listed in main.rs"
        );
    }
}
