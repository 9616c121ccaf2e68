//! What the tests stand on: the built binary in an environment of its own,
//! and the real daemon.

pub mod env;
pub mod lab;
