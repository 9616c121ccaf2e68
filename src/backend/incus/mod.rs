//! The Incus backend: REST and WebSocket over the daemon's socket or TLS.

mod client;
mod failure;
mod operation;
mod transport;
pub mod wire;

pub use client::Client;
pub use failure::Failure;
pub use operation::Running;
pub use transport::{Endpoint, Remote};
