//! Pixels behind a gateway for one test, with the simulated internet [`Wan`].

use serde_json::Value;

use super::env::TestEnv;
use super::server::Server;
use super::wait::eventually;
use super::wan::Wan;

pub struct Walls {
    pub wan: Wan,
    pub env: TestEnv,
    pub server: Server,
}

/// The network addresses of a pixel or gateway.
#[derive(Debug, Clone)]
pub struct Place {
    pub mac: String,
    pub address: String,
}

impl Walls {
    pub fn new(test: &str, wan: Wan) -> Self {
        let mut env = TestEnv::new(test);
        env.set("PIXELS_NETWORK_BRIDGE", &wan.bridge());
        env.config(&format!("[defaults]\ndns = [\"{}\"]\n", wan.resolver()));
        let walls = Self {
            wan,
            env,
            server: Server::shared(),
        };
        walls.clear();
        walls
    }

    pub fn gateway_name(&self) -> String {
        format!("px-gateway-{}", self.wan.bridge())
    }

    /// An environment for pixels on the host's network, without a gateway.
    pub fn open(&self, test: &str) -> TestEnv {
        let mut env = TestEnv::new(test);
        env.set("PIXELS_NETWORK_PLACEMENT", "pixel");
        env
    }

    /// Deletes the gateway and all pixels on its bridge.
    fn clear(&self) {
        let all = self.server.get("/1.0/instances?recursion=1");
        let bridge = self.wan.bridge();
        let behind = |one: &&Value| one["devices"]["eth0"]["network"] == bridge;
        let names: Vec<&str> = all
            .as_array()
            .unwrap()
            .iter()
            .filter(behind)
            .filter_map(|one| one["name"].as_str())
            .collect();
        if !names.is_empty() {
            let args = ["destroy", "--force"].into_iter().chain(names);
            let _ = self.env.pixels(args);
        }
        self.env.pixels(["network", "gateway", "remove"]).ok();
    }

    pub fn create(&self, short: &str, mode: &str, allow: &[&str]) -> String {
        let name = self.env.name(short);
        let mut args = vec!["create", &name, "--egress", mode];
        for entry in allow {
            args.extend(["--allow", entry]);
        }
        self.env.pixels(args).ok();
        name
    }

    pub fn place(&self, pixel: &str) -> Place {
        let found = self.server.get(&format!("/1.0/instances/px-{pixel}"));
        let text = |key: &str| found["config"][key].as_str().unwrap().to_owned();
        Place {
            mac: text("volatile.eth0.hwaddr"),
            address: text("user.pixels.address"),
        }
    }

    /// The gateway's addresses on the isolated bridge.
    pub fn gateway(&self) -> Place {
        let found = self
            .server
            .get(&format!("/1.0/instances/{}", self.gateway_name()));
        let text = |key: &str| found["config"][key].as_str().unwrap().to_owned();
        let subnet = text("user.pixels.subnet");
        let network = subnet.split('/').next().unwrap();
        Place {
            mac: text("volatile.eth1.hwaddr"),
            address: format!("{}1", network.strip_suffix('0').unwrap()),
        }
    }

    /// Runs a shell script in the pixel as root.
    pub fn sh(&self, pixel: &str, script: &str) -> super::env::Outcome {
        let args = ["exec", "-u", "root", pixel, "--", "bash", "-c", script];
        self.env.pixels(args)
    }

    /// Waits until a connection succeeds: a pixel that has just started may
    /// have no address yet.
    #[track_caller]
    pub fn comes_to_reach(&self, pixel: &str, host: &str, port: u16) {
        eventually(&format!("{pixel} reaches {host}"), || {
            self.reaches(pixel, host, port)
        });
    }

    /// Like [`Self::comes_to_reach`], for servers that send no greeting.
    #[track_caller]
    pub fn comes_to_connect(&self, pixel: &str, host: &str, port: u16) {
        let script = format!("timeout 4 bash -c 'exec 3<>/dev/tcp/{host}/{port}'");
        eventually(&format!("{pixel} connects to {host}"), || {
            self.sh(pixel, &script).code == 0
        });
    }

    /// Whether the pixel can connect to this host and port.
    pub fn reaches(&self, pixel: &str, host: &str, port: u16) -> bool {
        let script = format!(
            "exec 3<>/dev/tcp/{host}/{port} && echo hi >&3 && timeout 2 head -n 1 <&3 | grep -q hello"
        );
        self.sh(pixel, &format!("timeout 4 bash -c '{script}'"))
            .code
            == 0
    }
}

impl Drop for Walls {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}",
                self.env.pixels(["network", "gateway", "status"]).stdout
            );
        }
        self.clear();
    }
}
