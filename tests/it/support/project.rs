//! An Incus project for one test, with instance names and limits separate from
//! the default project.

use std::path::Path;

use serde_json::{Value, json};

use super::env::TestEnv;
use super::server::Server;

pub struct Project {
    pub name: String,
    /// An environment that uses the project and a separate gateway.
    pub env: TestEnv,
}

impl Project {
    /// Creates a project. Deletes projects of this `kind` left by killed tests.
    pub fn new(kind: &str, config: &Value) -> Self {
        let server = Server::shared();
        let prefix = format!("px-t-{kind}-");
        for url in server.get("/1.0/projects").as_array().unwrap() {
            let name = url.as_str().unwrap().rsplit('/').next().unwrap();
            let creator = name.strip_prefix(&prefix);
            if creator.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                drop(Self::existing(name));
            }
        }
        let name = format!("{prefix}{}", std::process::id());
        let body = json!({"name": name, "config": config});
        server.done("POST", "/1.0/projects", &body);
        Self::existing(&name)
    }

    fn existing(name: &str) -> Self {
        let mut env = TestEnv::bare();
        let [_, _, kind, creator] = name.split('-').collect::<Vec<_>>()[..] else {
            panic!("{name}");
        };
        // All projects share networks, and network names must be short.
        env.set("PIXELS_INCUS_PROJECT", name).set(
            "PIXELS_NETWORK_BRIDGE",
            &format!("px{}{creator}", &kind[..3]),
        );
        Self {
            name: name.to_owned(),
            env,
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let _ = self.env.destroy(self.env.list());
        let _ = self.env.pixels(["network", "gateway", "remove"]);
        let path = format!("/1.0/projects/{}", self.name);
        if let Err(error) = Server::shared().try_done("DELETE", &path, &Value::Null) {
            eprintln!("project {}: {error}", self.name);
        }
    }
}
