//! All integration tests, in one binary. Tests that need a real Incus daemon are
//! ignored by default. `cargo test -- --include-ignored` runs them as root, and
//! [`support::lab::ready`] installs the daemon with `pixels setup`.

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
mod suite;
mod too_large;
mod transfer;
mod transfer_large;
mod truenas;
mod truenas_faults;
mod truenas_files;
mod truenas_guard;
mod truenas_network;
