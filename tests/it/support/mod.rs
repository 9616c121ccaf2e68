//! Shared test code: isolated environments for the built binary, the Incus
//! daemon, private daemons, and connections with injected faults.

pub mod dns;
pub mod env;
pub mod git;
pub mod hostile;
pub mod http;
pub mod lab;
pub mod mcp;
pub mod private_daemon;
pub mod programs;
pub mod project;
pub mod proxy;
pub mod pty;
pub mod report;
pub mod repository;
pub mod rounds;
pub mod server;
pub mod tree;
pub mod truenas;
pub mod wait;
pub mod walls;
pub mod wan;
pub mod wan_pixel;
pub mod web;
