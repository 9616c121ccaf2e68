//! pixels: disposable Linux machines for AI coding agents.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod backend;
pub mod config;
pub mod sandbox;
pub mod secret;
