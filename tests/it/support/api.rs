//! The daemon's own API, for what a test prepares or checks behind the
//! product's back.

use std::time::Duration;

use pixels::backend::incus::{Client, Endpoint, Failure};
use reqwest::Method;
use serde_json::Value;

const SOCKET: &str = "/var/lib/incus/unix.socket";
const LIMIT: Duration = Duration::from_secs(120);

/// Each request on a new connection: between two calls nothing would
/// notice that the daemon has closed one.
pub struct Api {
    project: Option<String>,
    runtime: tokio::runtime::Runtime,
}

impl Api {
    pub fn new() -> Self {
        Self::in_project(None)
    }

    pub fn in_project(project: Option<&str>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let project = project.map(str::to_owned);
        Self { project, runtime }
    }

    fn client(&self) -> Client {
        Client::new(&Endpoint::Unix(SOCKET.into()), self.project.clone()).unwrap()
    }

    pub fn try_get(&self, path: &str) -> Result<Value, Failure> {
        self.runtime.block_on(self.client().get(path))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.try_get(path).unwrap()
    }

    /// The instance of a pixel.
    #[track_caller]
    pub fn instance(&self, pixel: &str) -> Value {
        self.get(&format!("/1.0/instances/px-{pixel}"))
    }

    /// A request that is answered at once.
    #[track_caller]
    pub fn send(&self, method: Method, path: &str, body: &Value) {
        self.runtime
            .block_on(self.client().send(method, path, body))
            .unwrap();
    }

    pub fn try_delete(&self, path: &str) -> Result<(), Failure> {
        self.runtime.block_on(self.client().delete(path))
    }

    /// A request that starts an operation, to the operation's end.
    #[track_caller]
    pub fn operate(&self, method: Method, path: &str, body: &Value) {
        self.runtime
            .block_on(async {
                let client = self.client();
                let running = client.start(method, path, body).await?;
                running.wait(path, LIMIT).await
            })
            .unwrap();
    }
}
