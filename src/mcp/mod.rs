//! The MCP server: sandboxes for AI agents over the Model Context Protocol.
//!
//! A sandbox is a pixel that a client has created through this server. The
//! parts: [`server`] listens and owns the state file; [`stdio`] connects a
//! client on standard input and output to the server; [`http`], [`auth`] and
//! [`cancellation`] are the transport; [`tools`] define the interface;
//! [`service`] and related files implement the tools; [`reaper`] stops idle
//! sandboxes and destroys expired ones; [`reconcile`] repairs the records after
//! a crash.

mod auth;
mod base_builds;
mod cancellation;
mod checkpoints;
mod config;
mod create;
mod create_request;
mod create_task;
mod egress_ceiling;
mod encoding;
mod error;
mod exec;
mod files;
mod http;
pub mod install;
mod jobs;
mod locks;
mod reaper;
mod reconcile;
mod replace_file;
mod response;
mod server;
mod service;
mod state;
pub mod stdio;
mod token_file;
mod tools;
mod truncate;

#[cfg(test)]
mod fuzz;

pub use config::{Config, Limits, MaxResources};
pub use server::{Listen, Server, StartError};
