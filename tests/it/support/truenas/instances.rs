//! `virt.*`, implemented on the real Incus daemon.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answer::{Fail, Outcome, args, call, invalid, not_found};
use super::query::Query;
use super::template::Template;
use super::{Inner, POOL};

const LEAST: u64 = 32 << 20;
const IMAGE: &str = "ubuntu/24.04";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    name: String,
    image: String,
    #[serde(rename = "instance_type")]
    _kind: String,
    autostart: bool,
    environment: BTreeMap<String, String>,
    devices: Vec<Device>,
    cpu: Option<String>,
    memory: Option<u64>,
    storage_pool: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    #[serde(rename = "dev_type")]
    _kind: String,
    nic_type: String,
    parent: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    environment: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    force: bool,
    timeout: Option<i64>,
}

impl Inner {
    /// This test's instances, as returned by the Incus API.
    pub fn ours(&self) -> Vec<Value> {
        let mut all = self.incus.get("/1.0/instances?recursion=1");
        let all = all.as_array_mut().unwrap();
        all.retain(|one| one["name"].as_str().unwrap().starts_with(&self.prefix));
        std::mem::take(all)
    }

    /// An instance of this test, as returned by the Incus API.
    pub fn incus_instance(&self, name: &str) -> Option<Value> {
        if !name.starts_with(&self.prefix) {
            return None;
        }
        let path = format!("/1.0/instances/{name}");
        self.incus.try_done("GET", &path, &Value::Null).ok()
    }

    fn is_up(&self) -> bool {
        self.state.lock().unwrap().service.is_none()
    }

    fn virt(&self, found: Value, raw: bool) -> Value {
        let config = &found["config"];
        let text = |key: &str| config[key].as_str();
        let variables = config.as_object().into_iter().flatten();
        let environment: Map<String, Value> = variables
            .filter_map(|(key, value)| {
                Some((key.strip_prefix("environment.")?.to_owned(), value.clone()))
            })
            .collect();
        let memory = text("limits.memory").and_then(|text| {
            let mib: i64 = text.strip_suffix("MiB")?.parse().ok()?;
            Some(mib << 20)
        });
        let mut virt = json!({
            "id": found["name"], "name": found["name"], "type": "CONTAINER",
            "status": found["status"].as_str().unwrap().to_uppercase(),
            "cpu": text("limits.cpu"), "memory": memory, "environment": environment, "aliases": [],
            "image": {"description": text("image.description"), "os": text("image.os"),
                "release": text("image.release"), "type": "squashfs"},
            "storage_pool": POOL, "raw": null, "a_later_field": [1, 2],
        });
        if self.is(25, 10) {
            virt["privileged_mode"] = json!(text("security.privileged") == Some("true"));
        }
        let path = format!("/1.0/instances/{}/state", found["name"].as_str().unwrap());
        let state = self.incus.try_done("GET", &path, &Value::Null);
        if raw {
            virt["raw"] = found;
            virt["raw"]["state"] = state.unwrap_or_default();
        }
        virt
    }

    pub fn virt_query(&self, params: &[Value]) -> Outcome {
        let query: Query = args(params)?;
        let found = match query.wanted("name") {
            _ if !self.is_up() => Vec::new(),
            Some(name) => self.incus_instance(name).into_iter().collect(),
            None => self.ours(),
        };
        let raw = query.options.extra["raw"] == true;
        query.answer(found.into_iter().map(|one| self.virt(one, raw)))
    }

    /// Runs the job of `virt.instance.VERB`.
    pub fn virt_job(&self, verb: &str, params: &[Value]) -> Outcome {
        if !self.is_up() {
            return Err(call(14, "Virtualization not initialized."));
        }
        if verb == "create" {
            return self.virt_create(params);
        }
        let name = params.first().and_then(Value::as_str).unwrap_or_default();
        let found = self.incus_instance(name);
        let found = found.ok_or_else(|| not_found("VirtInstance", name))?;
        let running = found["status"] == "Running";
        match verb {
            "update" => {
                let (_, spec): (String, Update) = args(params)?;
                // An update replaces the whole environment.
                let new = json!({"config": environment(spec.environment)?});
                self.set_environment(name, &found, &new)
            }
            "start" => {
                let (_,): (String,) = args(params)?;
                let started = self.change(name, "start", false, -1);
                if let Some(plant) = &self.state.lock().unwrap().planted {
                    plant(&super::files::root_of(name));
                }
                started
            }
            "stop" | "restart" => {
                let (_, how): (String, Stop) = args(params)?;
                if !how.force && how.timeout.is_none_or(|timeout| timeout < 0) {
                    let text = "Value error, Timeout should be set if force is disabled";
                    return Err(invalid("", text));
                }
                if running || verb == "stop" {
                    match how.timeout {
                        Some(timeout) if !how.force && timeout > 0 => {
                            self.change(name, "stop", false, timeout)
                        }
                        _ => self.change(name, "stop", true, -1),
                    }?;
                }
                if verb == "restart" {
                    self.change(name, "start", false, -1)?;
                }
                Ok(json!(true))
            }
            "delete" => {
                let (_,): (String,) = args(params)?;
                if running {
                    let _ = self.change(name, "stop", true, -1);
                }
                let path = format!("/1.0/instances/{name}");
                self.incus.try_done("DELETE", &path, &Value::Null)?;
                self.forget_clone(name);
                Ok(json!(true))
            }
            other => {
                self.wrong(format!("virt.instance.{other} is not simulated"));
                Err(Fail::NoMethod)
            }
        }
    }

    pub fn change(&self, name: &str, action: &str, force: bool, timeout: i64) -> Outcome {
        let path = format!("/1.0/instances/{name}/state");
        let body = json!({"action": action, "force": force, "timeout": timeout});
        Ok(self.incus.try_done("PUT", &path, &body)?)
    }

    fn virt_create(&self, params: &[Value]) -> Outcome {
        let (spec,): (Create,) = args(params)?;
        let name = &spec.name;
        if !name.starts_with(&self.prefix) {
            self.wrong(format!("{name} does not belong to this test"));
            return Err(call(14, "not an instance of this test"));
        }
        if self.incus_instance(name).is_some() {
            let text = format!("Name '{name}' already exists");
            return Err(invalid("virt_instance_create.name", text));
        }
        if spec.memory.is_some_and(|memory| memory < LEAST) {
            let text = "Value error, Value must be 32MiB or larger";
            return Err(invalid("virt_instance_create.memory", text));
        }
        if spec.storage_pool.is_some_and(|pool| pool != POOL) {
            let text = "Not a valid ZFS pool";
            return Err(invalid("virt_instance_create.storage_pool", text));
        }
        if spec.autostart {
            self.wrong("autostart starts the instance immediately".into());
        }
        if spec.image != IMAGE {
            let text = format!("Failed getting remote image info: {} not found", spec.image);
            return Err(call(14, text));
        }
        let mut config = environment(spec.environment)?;
        config.insert("boot.autostart".into(), json!("false"));
        if let Some(cpu) = spec.cpu {
            config.insert("limits.cpu".into(), json!(cpu));
        }
        if let Some(memory) = spec.memory {
            config.insert(
                "limits.memory".into(),
                json!(format!("{}MiB", memory >> 20)),
            );
        }
        let body = json!({
            "name": name, "type": "container", "profiles": [], "config": config,
            "devices": devices(spec.devices)?,
            "source": self.source(),
        });
        Ok(self.incus.try_done("POST", "/1.0/instances", &body)?)
    }

    /// What Incus creates an instance from.
    fn source(&self) -> Value {
        let (lacks_ssh, template) = {
            let state = self.state.lock().unwrap();
            (state.lacks_ssh, state.template.clone())
        };
        if lacks_ssh {
            return json!({"type": "image", "alias": self.image});
        }
        let template = template.unwrap_or_else(|| Template::shared(&self.incus, &self.image));
        let source = json!({"type": "copy", "source": template.name});
        self.state.lock().unwrap().template = Some(template);
        source
    }
}

/// Fails if a key is not a word, or if a value is blank or too long.
fn environment(given: BTreeMap<String, String>) -> Result<Map<String, Value>, Fail> {
    let mut config = Map::new();
    for (key, text) in given {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let sound = key.starts_with(word) && key.chars().all(|c| word(c) || c == '/');
        if !sound || text.trim().is_empty() || text.chars().count() > 1024 {
            let attribute = format!("virt_instance.environment.{key}");
            return Err(invalid(&attribute, "Input should be a valid value"));
        }
        config.insert(format!("environment.{key}"), json!(text));
    }
    Ok(config)
}

fn devices(given: Vec<Device>) -> Result<Value, Fail> {
    let mut devices = json!({"root": {"type": "disk", "path": "/", "pool": "default"}});
    for (number, device) in given.into_iter().enumerate() {
        let kind = device.nic_type.to_lowercase();
        if kind == "bridged" && device.parent != "incusbr0" {
            let attribute = format!("virt_instance_create.devices.{number}.NIC.parent");
            return Err(invalid(&attribute, "Invalid parent interface"));
        }
        let name = format!("eth{number}");
        devices[&name] =
            json!({"type": "nic", "nictype": kind, "parent": device.parent, "name": name});
    }
    Ok(devices)
}
