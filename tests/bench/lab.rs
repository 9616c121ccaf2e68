//! The benchmark environment: a separate Incus project with a base pixel. Both
//! are deleted at the end.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{self, Api};
use crate::crowd::Crowds;
use crate::go_on;
use crate::measure::Who;
use crate::process::Program;

const PROJECT: &str = "px-t-bench-";
const GATEWAY: &str = "px-gateway";
/// Prefix of the bridge name, before the process id: projects share bridges.
const BRIDGE: &str = "pxb";
/// Concurrent requests when many instances are created or deleted.
const AT_ONCE: usize = 8;
/// Pixels that start before the gateway applies their policies together.
const GROUP: usize = 50;
/// Configuration keys of the address and the policy of a pixel.
const ADDRESS: &str = "user.pixels.address";
const POLICY: &str = "user.pixels.egress";
/// Placeholder for the number of a pixel.
const NUMBER: &str = "number";
/// Bytes that the large transfers send or receive.
pub const VOLUME: usize = 100_000_000;

pub struct Lab {
    socket: PathBuf,
    project: String,
    home: TempDir,
    pixels: Program,
    base: OnceLock<()>,
    crowds: OnceLock<Box<Crowds>>,
    removed: bool,
}

impl Lab {
    pub fn open(pixels: &Path) -> Result<Self> {
        let socket = api::socket()?;
        let mut api = Api::new(&socket, "default");
        for left in left_behind(&mut api)? {
            eprintln!("deleting {left}, left by a killed run");
            remove_project(&socket, &left)?;
        }
        Self::open_project(pixels, socket, format!("{PROJECT}{}", std::process::id()))
    }

    /// Opens another lab with its own project, bridge and gateway.
    pub fn open_sibling(&self, suffix: &str) -> Result<Self> {
        let project = format!("{}-{suffix}", self.project);
        Self::open_project(&self.pixels.path, self.socket.clone(), project)
    }

    fn open_project(pixels: &Path, socket: PathBuf, project: String) -> Result<Self> {
        let mut api = Api::new(&socket, "default");
        let home = tempfile::tempdir()?;
        let config = json!({
            "features.images": "false",
            "features.profiles": "false",
            "features.storage.buckets": "false",
            "features.storage.volumes": "false",
        });
        let body = json!({"name": project, "config": config});
        api.call("POST", "/1.0/projects", Some(&body))?;
        Ok(Self {
            pixels: Program {
                path: pixels.to_owned(),
                home: home.path().to_owned(),
                project: Some(project.clone()),
                bridge: bridge(&project),
                placement: None,
            },
            socket,
            project,
            home,
            base: OnceLock::new(),
            crowds: OnceLock::new(),
            removed: false,
        })
    }

    /// A program that uses this lab's project.
    pub fn program(&self, path: &Path) -> Program {
        Program {
            path: path.to_owned(),
            ..self.pixels.clone()
        }
    }

    /// An API client without an open connection.
    pub fn api(&self) -> Api {
        Api::new(&self.socket, &self.project)
    }

    /// The version and storage driver of the daemon.
    pub fn server(&self) -> Result<(String, String)> {
        let server = self.api().call("GET", "/1.0", None)?;
        let environment = &server["environment"];
        let text = |key: &str| environment[key].as_str().unwrap_or("?").to_owned();
        Ok((text("server_version"), text("storage")))
    }

    /// A pixel name that is unique on the network across projects.
    pub fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.project.trim_start_matches("px-"))
    }

    /// The instance name of a pixel.
    pub fn instance(&self, short: &str) -> String {
        format!("px-{}", self.name(short))
    }

    /// The name of a pixel in the program's arguments.
    pub fn called(&self, who: Who, short: &str) -> String {
        match who {
            Who::Incus => self.instance(short),
            _ => self.name(short),
        }
    }

    /// Folder for files of the rows, deleted with the lab.
    pub fn folder(&self) -> &Path {
        self.home.path()
    }

    /// The instance name of this lab's gateway.
    pub fn gateway(&self) -> String {
        format!("{GATEWAY}-{}", bridge(&self.project).unwrap_or_default())
    }

    /// Creates the base pixel and its checkpoint, unless they exist.
    pub fn base(&self) -> Result<()> {
        if self.base.get().is_some() {
            return Ok(());
        }
        eprintln!("creating the base pixel from the default image");
        let base = self.name("base");
        self.pixels.run(&["create", &base])?;
        self.pixels
            .run(&["checkpoint", "create", &base, "--label", "ready"])?;
        let _ = self.base.set(());
        Ok(())
    }

    /// A file of [`VOLUME`] bytes.
    pub fn file(&self) -> Result<PathBuf> {
        let path = self.home.path().join("volume");
        if !path.exists() {
            let block: Vec<u8> = (0..VOLUME / 100).map(|i| (i * 31 / 7) as u8).collect();
            std::fs::write(&path, block.repeat(100))?;
        }
        Ok(path)
    }

    /// Forks `running` pixels from the base. Then clones stopped instances from
    /// an empty instance with the base's configuration, up to `count` pixels in
    /// total. Returns the total time.
    pub fn crowd(&self, count: usize, running: usize) -> Result<Duration> {
        let begun = Instant::now();
        let (number, ready) = (running.to_string(), format!("{}:ready", self.name("base")));
        self.pixels
            .run(&["fork", &ready, "-n", &number, "--prefix", &self.name("run")])?;
        let mut api = self.api();
        let base = format!("/1.0/instances/{}", self.instance("base"));
        let base = api.call("GET", &base, None)?;
        let mut config = base["config"].clone();
        if let Some(config) = config.as_object_mut() {
            config.retain(|key, _| !key.starts_with("volatile."));
        }
        let tiny = self.instance("tiny");
        let empty = json!({
            "name": tiny,
            "profiles": [],
            "config": config,
            "devices": base["devices"],
            "source": {"type": "none"},
        });
        api.operate("POST", "/1.0/instances", &empty)?;
        let snapshots = format!("/1.0/instances/{tiny}/snapshots");
        api.operate("POST", &snapshots, &json!({"name": "tiny"}))?;
        let there = pixels(&mut api)?.len();
        let names: Vec<String> = (there..count)
            .map(|index| self.instance(&format!("{index:03}")))
            .collect();
        let source = format!("{tiny}/tiny");
        side_by_side(&names, |name| {
            go_on()?;
            let body = json!({
                "name": name,
                "source": {"type": "copy", "source": source, "instance_only": true},
            });
            let mut api = self.api();
            api.operate("POST", "/1.0/instances", &body).map(drop)
        })
        .context("cloning")?;
        let there = pixels(&mut api)?.len();
        ensure!(there == count, "{there} instances instead of {count}");
        Ok(begun.elapsed())
    }

    /// The running pixels of the rows about many pixels. Creates them first, if
    /// necessary.
    pub fn crowds(&self) -> Result<&Crowds> {
        if self.crowds.get().is_none() {
            let _ = self.crowds.set(Box::new(Crowds::create(self)?));
        }
        self.crowds.get().map(Box::as_ref).context("no pixels")
    }

    /// Starts pixels behind the gateway until `count` of them run, every second with
    /// a policy of its own. They run a single process, so that many fit into
    /// memory. The base pixel must exist.
    pub fn populate(&self, count: usize) -> Result<()> {
        let mut api = self.api();
        let source = format!("{}/ready", self.instance("base"));
        let base = format!("/1.0/instances/{}", self.instance("base"));
        let policies = self.policy_records(&mut api)?;
        let base = api.call("GET", &base, None)?;
        let hook = base["config"]["raw.lxc"].as_str().unwrap_or_default();
        let init = format!("{hook}\nlxc.init.cmd = /bin/sleep infinity");
        let subnet = self.subnet()?;
        let names: Vec<String> = (1..count).map(|index| index.to_string()).collect();
        for group in names.chunks(GROUP) {
            side_by_side(group, |index| {
                go_on()?;
                let number: u32 = index.parse()?;
                let own = Ipv4Addr::from_bits(subnet + 256 + number);
                let policy = &policies[number as usize % policies.len()];
                let name = self.instance(&format!("c{index}"));
                let body = json!({
                    "name": name,
                    "source": {"type": "copy", "source": source, "instance_only": true},
                    "config": {
                        (ADDRESS): own.to_string(),
                        (POLICY): policy.replace(NUMBER, index),
                        "raw.lxc": init,
                    },
                });
                let mut api = self.api();
                api.operate("POST", "/1.0/instances", &body)?;
                api.state(&name, "start", false)
            })
            .context("starting pixels")?;
            // Applies all recorded policies.
            self.pixels.run(&["network", "gateway", "status"])?;
        }
        Ok(())
    }

    /// Records of policies with the placeholder [`NUMBER`] in their host names.
    fn policy_records(&self, api: &mut Api) -> Result<Vec<String>> {
        let path = format!("/1.0/instances/{}", self.instance("base"));
        let own = format!("host-{NUMBER}.example");
        let mut records = Vec::new();
        for words in [
            [
                "allowlist",
                "--allow",
                &own,
                "--allow",
                "*.shared.example:443",
            ]
            .as_slice(),
            ["agent"].as_slice(),
        ] {
            self.set_policy("base", words)?;
            let base = api.call("GET", &path, None)?;
            let record = base["config"][POLICY].as_str().context("no policy")?;
            records.push(record.to_owned());
        }
        Ok(records)
    }

    /// The first address of the subnet behind the gateway.
    pub fn subnet(&self) -> Result<u32> {
        let path = format!("/1.0/instances/{}", self.instance("base"));
        let base = self.api().call("GET", &path, None)?;
        let address = base["config"][ADDRESS].as_str().context("no address")?;
        Ok(address.parse::<Ipv4Addr>()?.to_bits() & 0xffff_0000)
    }

    /// The host's address on the gateway's uplink.
    pub fn host(&self) -> Result<Ipv4Addr> {
        let mut api = self.api();
        let path = format!("/1.0/instances/{}", self.gateway());
        let gateway = api.call("GET", &path, None)?;
        let uplink = gateway["expanded_devices"]["eth0"]["network"]
            .as_str()
            .context("the gateway's uplink is not a managed network")?;
        let network = api.call("GET", &format!("/1.0/networks/{uplink}"), None)?;
        let address = network["config"]["ipv4.address"].as_str();
        let address = address.and_then(|net| net.split('/').next());
        Ok(address.context("no address of the host")?.parse()?)
    }

    /// The memory of an instance in bytes.
    pub fn memory(&self, instance: &str) -> Result<u64> {
        let path = format!("/1.0/instances/{instance}/state");
        let state = self.api().call("GET", &path, None)?;
        state["memory"]["usage"].as_u64().context("no memory usage")
    }

    pub fn pixel_count(&self) -> Result<usize> {
        Ok(pixels(&mut self.api())?.len())
    }

    pub fn set_policy(&self, short: &str, policy: &[&str]) -> Result<Duration> {
        let name = self.name(short);
        self.pixels
            .run(&[["network", "set", &name].as_slice(), policy].concat())
    }

    /// Deletes all instances. Returns a note with the time taken.
    pub fn close(mut self) -> Result<String> {
        eprintln!("deleting all instances");
        let begun = Instant::now();
        let mut count = 0;
        for lab in self
            .crowds
            .take()
            .into_iter()
            .flat_map(|crowds| crowds.into_labs())
        {
            count += lab.remove()?;
        }
        count += self.remove()?;
        Ok(format!(
            "deleting {count} instances took {:.1} s",
            begun.elapsed().as_secs_f64()
        ))
    }

    fn remove(mut self) -> Result<usize> {
        self.removed = true;
        remove_project(&self.socket, &self.project)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        if let Err(error) = remove_project(&self.socket, &self.project) {
            eprintln!(
                "bench: cannot delete project {}: {error:#}; the next run deletes it",
                self.project
            );
        }
    }
}

/// Projects of earlier runs whose process no longer exists.
fn left_behind(api: &mut Api) -> Result<Vec<String>> {
    let projects = api.call("GET", "/1.0/projects", None)?;
    let mut names = names_of(&projects);
    names.retain(|name| {
        let rest = name.strip_prefix(PROJECT);
        let pid = rest
            .and_then(|rest| rest.split('-').next())
            .map(str::parse::<u32>);
        pid.is_some_and(|pid| pid.is_ok_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()))
    });
    Ok(names)
}

/// The instances of a project, without the gateway.
fn pixels(api: &mut Api) -> Result<Vec<String>> {
    let mut all = instances(api)?;
    all.retain(|name| !name.starts_with(GATEWAY));
    Ok(all)
}

fn instances(api: &mut Api) -> Result<Vec<String>> {
    let all = api.call("GET", "/1.0/instances", None)?;
    Ok(names_of(&all))
}

fn bridge(project: &str) -> Option<String> {
    Some(format!("{BRIDGE}{}", project.strip_prefix(PROJECT)?))
}

/// The last path segments of a list of URLs.
fn names_of(urls: &Value) -> Vec<String> {
    let urls = urls.as_array().into_iter().flatten();
    urls.filter_map(|url| {
        let path = url.as_str()?.split('?').next()?;
        Some(path.rsplit('/').next()?.to_owned())
    })
    .collect()
}

/// Deletes a project and its instances. Returns the number of instances.
fn remove_project(socket: &Path, project: &str) -> Result<usize> {
    let mut api = Api::new(socket, project);
    let names = instances(&mut api)?;
    side_by_side(&names, |name| Api::new(socket, project).remove(name)).context("deleting")?;
    // The daemon may have closed the connection, which was idle for minutes.
    let mut api = Api::new(socket, project);
    if let Some(bridge) = bridge(project) {
        for kind in ["networks", "network-acls"] {
            // These exist only if the lab used a gateway.
            let _ = api.call("DELETE", &format!("/1.0/{kind}/{bridge}"), None);
        }
    }
    api.call("DELETE", &format!("/1.0/projects/{project}"), None)
        .with_context(|| format!("deleting project {project}"))?;
    Ok(names.len())
}

/// Calls `work` for all names, several at a time. The error lists all failures.
fn side_by_side(names: &[String], work: impl Fn(&str) -> Result<()> + Sync) -> Result<()> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(String::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = work(name) {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.push_str(&format!("{name}: {error:#}; "));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failed.is_empty(), "{failed}");
    Ok(())
}
