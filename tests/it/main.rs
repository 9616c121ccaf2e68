//! All integration tests, in one binary. Tests that need a real Incus daemon are
//! ignored by default. `cargo test -- --include-ignored` runs them as root, and
//! [`support::lab::ready`] installs the daemon with `pixels setup`.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

mod base;
mod checkpoint_concurrency;
mod cli_console;
mod cli_edge_cases;
mod cli_exec;
mod cli_lifecycle;
mod cli_output;
mod cli_streams;
mod dependencies;
mod docs;
mod egress_floods;
mod egress_flows;
mod egress_gateway;
mod egress_gateway_escapes;
mod egress_git;
mod egress_host;
mod egress_layer2;
mod egress_lease;
mod egress_pixel;
mod egress_pixel_escapes;
mod egress_pixel_files;
mod error_messages;
mod expiry_events_top;
mod faults_connection;
mod faults_daemon;
mod faults_gateway;
mod faults_signals;
mod faults_truenas;
mod forward;
mod guest_file_links;
mod guest_file_rights;
mod hardening;
mod host;
mod hostile_text;
mod incus_connections;
mod layering;
mod mcp_cancel;
mod mcp_clients;
mod mcp_crash;
mod mcp_load;
mod mcp_security;
mod mcp_stdio;
mod mcp_tools;
mod packaging;
mod printing;
mod prose;
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
mod truenas_files;
mod truenas_network;
mod truenas_security;
mod walls;
