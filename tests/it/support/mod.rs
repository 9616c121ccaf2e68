//! What the tests stand on: the built binary in an environment of its own,
//! the real daemon, a second one that may be broken, and connections that may.

pub mod api;
pub mod dns;
pub mod env;
pub mod git;
pub mod lab;
pub mod leftovers;
pub mod mcp;
pub mod private_daemon;
pub mod programs;
pub mod proxy;
pub mod pty;
pub mod rounds;
pub mod server;
pub mod tree;
pub mod truenas;
pub mod wait;
pub mod walls;
pub mod wan;
pub mod wan_pixel;
pub mod web;
