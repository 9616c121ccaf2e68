//! `virt.*`, on the real daemon.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::answer::{Fail, Outcome, call, invalid, not_found};
use super::query::Query;
use super::schema::{self, Kind};
use super::{Inner, POOL};

const LEAST: i64 = 32 << 20;

impl Inner {
    /// The daemon's own view of one of our instances.
    pub fn incus_instance(&self, name: &str) -> Option<Value> {
        if !name.starts_with(&self.prefix) {
            return None;
        }
        let path = format!("/1.0/instances/{name}");
        self.incus.try_done("GET", &path, &Value::Null).ok()
    }

    fn incus_state(&self, name: &str) -> Value {
        let path = format!("/1.0/instances/{name}/state");
        let state = self.incus.try_done("GET", &path, &Value::Null);
        state.unwrap_or(Value::Null)
    }

    fn is_up(&self) -> bool {
        *self.service.lock().unwrap() == "INITIALIZED"
    }

    fn virt(&self, found: &Value, raw: bool) -> Value {
        let name = found["name"].as_str().unwrap();
        let config = &found["config"];
        let text = |key: &str| config[key].as_str();
        let state = self.incus_state(name);
        let mut aliases = Vec::new();
        for (_, interface) in state["network"].as_object().into_iter().flatten() {
            for address in interface["addresses"].as_array().into_iter().flatten() {
                if address["scope"] == "global" {
                    let v4 = address["family"] == "inet";
                    let bits: Option<i64> =
                        address["netmask"].as_str().and_then(|n| n.parse().ok());
                    aliases.push(json!({"type": if v4 { "INET" } else { "INET6" },
                        "address": address["address"], "netmask": bits}));
                }
            }
        }
        let environment: Map<String, Value> = config
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| {
                Some((key.strip_prefix("environment.")?.to_owned(), value.clone()))
            })
            .collect();
        let memory = text("limits.memory").and_then(|text| {
            let mib: i64 = text.strip_suffix("MiB")?.parse().ok()?;
            Some(mib << 20)
        });
        let status = found["status"].as_str().unwrap().to_uppercase();
        let mut whole = found.clone();
        whole["state"] = state;
        let mut virt = json!({
            "id": name, "name": name, "type": "CONTAINER", "status": status,
            "cpu": text("limits.cpu"), "memory": memory,
            "autostart": text("boot.autostart") == Some("true"),
            "environment": environment, "aliases": aliases,
            "image": {"architecture": text("image.architecture"),
                "description": text("image.description"), "os": text("image.os"),
                "release": text("image.release"), "serial": text("image.serial"),
                "type": "squashfs", "variant": "default", "secureboot": null},
            "userns_idmap": null, "raw": if raw { whole } else { Value::Null },
            "vnc_enabled": false, "vnc_port": null, "vnc_password": null, "secure_boot": null,
            "root_disk_size": null, "root_disk_io_bus": null, "storage_pool": POOL,
            "a_later_field": [1, 2],
        });
        if self.is(25, 10) {
            virt["privileged_mode"] = json!(text("security.privileged") == Some("true"));
        }
        virt
    }

    pub fn virt_query(&self, params: &[Value]) -> Outcome {
        let query = Query::of(params)?;
        if !self.is_up() {
            return query.answer(Vec::new());
        }
        let found: Vec<Value> = match query.wanted("name").or(query.wanted("id")) {
            Some(name) => self.incus_instance(name).into_iter().collect(),
            None => self
                .incus
                .get("/1.0/instances?recursion=1")
                .as_array()
                .unwrap()
                .iter()
                .filter(|one| one["name"].as_str().unwrap().starts_with(&self.prefix))
                .cloned()
                .collect(),
        };
        let raw = query.extra("raw") == &json!(true);
        let all = found.iter().map(|one| self.virt(one, raw)).collect();
        query.answer(all)
    }

    pub fn virt_get(&self, params: &[Value]) -> Outcome {
        schema::count(params, 1, 2)?;
        let name = schema::text(params, 0, "id")?;
        match self.incus_instance(name).filter(|_| self.is_up()) {
            Some(found) => Ok(self.virt(
                &found,
                params.get(1).is_some_and(|o| o["extra"]["raw"] == true),
            )),
            None => Err(not_found("VirtInstance", name)),
        }
    }

    /// The job of a change.
    pub fn virt_job(self: &Arc<Self>, verb: &str, params: &[Value]) -> Outcome {
        if verb == "create" {
            return self.virt_create(params);
        }
        schema::count(params, 1, 2)?;
        let name = schema::text(params, 0, "id")?;
        let found = self.incus_instance(name);
        let found = found.ok_or_else(|| not_found("VirtInstance", name))?;
        if !self.is_up() {
            return Err(call(14, "Virtualization not initialized."));
        }
        let running = found["status"] == "Running";
        match verb {
            "update" => self.virt_update(name, &found, params),
            "start" => {
                schema::count(params, 1, 1)?;
                let started = self.change(name, &json!({"action": "start", "timeout": -1}));
                if let Some(plant) = &*self.planted.lock().unwrap() {
                    plant(&super::files::root_of(name));
                }
                started.map_err(|e| {
                    call(
                        14,
                        format!("Failed to start instance: {e}. Please check job logs."),
                    )
                })
            }
            "stop" | "restart" => {
                let fields = [("timeout", Kind::Int, false), ("force", Kind::Bool, false)];
                let how = schema::object(params.get(1), "stop_args", &fields)?;
                let force = how["force"] == true;
                let timeout = how["timeout"].as_i64().unwrap_or(-1);
                if !force && timeout < 0 {
                    return Err(invalid(
                        "",
                        "Value error, Timeout should be set if force is disabled",
                    ));
                }
                if running || verb == "stop" {
                    let force = force || timeout == 0;
                    let body = json!({"action": "stop", "timeout": if force { -1 } else { timeout }, "force": force});
                    self.change(name, &body).map_err(|e| call(14, e))?;
                }
                if verb == "restart" {
                    self.change(name, &json!({"action": "start", "timeout": -1}))
                        .map_err(|e| call(14, e))?;
                }
                Ok(json!(true))
            }
            "delete" => {
                schema::count(params, 1, 1)?;
                if running {
                    let _ = self.change(
                        name,
                        &json!({"action": "stop", "timeout": -1, "force": true}),
                    );
                }
                let path = format!("/1.0/instances/{name}");
                self.incus
                    .try_done("DELETE", &path, &Value::Null)
                    .map_err(|e| call(14, e))?;
                self.forget_clone(name);
                Ok(json!(true))
            }
            other => Err(call(22, format!("{other} is not simulated"))),
        }
    }

    pub fn change(&self, name: &str, body: &Value) -> Result<Value, String> {
        let path = format!("/1.0/instances/{name}/state");
        self.incus.try_done("PUT", &path, body).map(|_| json!(true))
    }

    fn virt_create(&self, params: &[Value]) -> Outcome {
        schema::count(params, 1, 1)?;
        let mut fields = vec![
            ("name", Kind::Text, true),
            ("image", Kind::Text, true),
            ("source_type", Kind::Text, false),
            ("instance_type", Kind::Text, false),
            ("remote", Kind::Text, false),
            ("storage_pool", Kind::MaybeText, false),
            ("environment", Kind::Any, false),
            ("autostart", Kind::Bool, false),
            ("cpu", Kind::MaybeText, false),
            ("memory", Kind::MaybeInt, false),
            ("devices", Kind::List, false),
        ];
        if self.is(25, 10) {
            fields.push(("privileged_mode", Kind::Bool, false));
        }
        let spec = schema::object(params.first(), "virt_instance_create", &fields)?;
        let name = spec["name"].as_str().unwrap();
        if !name.starts_with(&self.prefix) {
            self.wrong(format!("{name} does not belong to this test"));
            return Err(call(14, "not here"));
        }
        if !self.is_up() {
            return Err(call(14, "Virtualization not initialized."));
        }
        if self.incus_instance(name).is_some() {
            let text = format!("Name '{name}' already exists");
            return Err(invalid("virt_instance_create.name", text));
        }
        if spec["memory"].as_i64().is_some_and(|memory| memory < LEAST) {
            let text = "Value error, Value must be 32MiB or larger";
            return Err(invalid("virt_instance_create.memory", text));
        }
        if spec["storage_pool"]
            .as_str()
            .is_some_and(|pool| pool != POOL)
        {
            return Err(invalid(
                "virt_instance_create.storage_pool",
                "Not a valid ZFS pool",
            ));
        }
        if spec["autostart"] != false {
            self.wrong("autostart starts an instance at once".into());
        }
        let mut config = environment(&spec["environment"])?;
        config.insert("boot.autostart".into(), json!("false"));
        if let Some(cpu) = spec["cpu"].as_str() {
            config.insert("limits.cpu".into(), json!(cpu));
        }
        if let Some(memory) = spec["memory"].as_i64() {
            config.insert(
                "limits.memory".into(),
                json!(format!("{}MiB", memory >> 20)),
            );
        }
        let image = spec["image"].as_str().unwrap();
        if ![
            "ubuntu/24.04",
            "ubuntu/24.04/default",
            "ubuntu/noble/default",
        ]
        .contains(&image)
        {
            return Err(call(
                14,
                format!("Failed getting remote image info: {image} not found"),
            ));
        }
        let body = json!({
            "name": name, "type": "container", "profiles": [], "config": config,
            "devices": devices(&spec["devices"])?,
            "source": {"type": "image", "alias": self.image},
        });
        self.incus
            .try_done("POST", "/1.0/instances", &body)
            .map_err(|e| call(14, e))?;
        let made = self
            .incus_instance(name)
            .ok_or_else(|| call(14, "it is gone"))?;
        Ok(self.virt(&made, false))
    }

    fn virt_update(&self, name: &str, found: &Value, params: &[Value]) -> Outcome {
        schema::count(params, 2, 2)?;
        let fields = [
            ("environment", Kind::Object, false),
            ("autostart", Kind::Bool, false),
            ("cpu", Kind::MaybeText, false),
            ("memory", Kind::MaybeInt, false),
        ];
        let spec = schema::object(params.get(1), "virt_instance_update", &fields)?;
        let mut config = Map::new();
        if spec.get("environment").is_some() {
            // It replaces all.
            for key in found["config"].as_object().unwrap().keys() {
                if key.starts_with("environment.") {
                    config.insert(key.clone(), json!(""));
                }
            }
            config.extend(environment(&spec["environment"])?);
        }
        self.incus
            .try_done(
                "PATCH",
                &format!("/1.0/instances/{name}"),
                &json!({"config": config}),
            )
            .map_err(|e| call(14, e))?;
        let now = self
            .incus_instance(name)
            .ok_or_else(|| call(14, "it is gone"))?;
        Ok(self.virt(&now, false))
    }
}

/// Keys are words, values are not blank and not long.
fn environment(given: &Value) -> Result<Map<String, Value>, Fail> {
    let mut config = Map::new();
    for (key, value) in given.as_object().into_iter().flatten() {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let sound = key.starts_with(word) && key.chars().all(|c| word(c) || c == '/');
        let text = value.as_str().unwrap_or_default();
        if !sound || text.trim().is_empty() || text.chars().count() > 1024 {
            let attribute = format!("virt_instance.environment.{key}");
            return Err(invalid(&attribute, "Input should be another"));
        }
        config.insert(format!("environment.{key}"), value.clone());
    }
    Ok(config)
}

fn devices(given: &Value) -> Result<Value, Fail> {
    let root = json!({"type": "disk", "path": "/", "pool": "default"});
    let mut devices = Map::from_iter([("root".to_owned(), root)]);
    for (number, device) in given.as_array().into_iter().flatten().enumerate() {
        let fields = [
            ("dev_type", Kind::Text, true),
            ("name", Kind::MaybeText, false),
            ("network", Kind::MaybeText, false),
            ("nic_type", Kind::MaybeText, false),
            ("parent", Kind::MaybeText, false),
        ];
        let at = format!("virt_instance_create.devices.{number}.NIC");
        let device = schema::object(Some(device), &at, &fields)?;
        let kind = device["nic_type"].as_str().map(str::to_lowercase);
        let kind = kind.ok_or_else(|| call(22, "'NoneType' object has no attribute 'lower'"))?;
        let parent = device["parent"].as_str().unwrap_or_default();
        if kind == "bridged" && parent != "incusbr0" {
            return Err(invalid(&format!("{at}.parent"), "Invalid parent interface"));
        }
        devices.insert(
            format!("eth{number}"),
            json!({"type": "nic", "nictype": kind, "parent": parent, "name": format!("eth{number}")}),
        );
    }
    Ok(Value::Object(devices))
}
