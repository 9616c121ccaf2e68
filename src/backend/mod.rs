//! Backends: the servers pixels live on.

pub mod incus;
