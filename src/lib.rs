//! pixels: disposable Linux machines for AI coding agents.

pub mod backend;
pub mod host;
pub mod sandbox;
