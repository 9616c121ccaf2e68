//! What the tests stand on: the built binary in an environment of its own,
//! and the real daemon.

pub mod api;
pub mod env;
pub mod lab;
pub mod pty;
pub mod wait;
