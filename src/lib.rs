//! pixels: disposable Linux machines for AI coding agents.

pub mod backend;
pub mod retry;
pub mod sandbox;
pub mod config;
pub mod secret;
