//! Snapshots: those of the daemon, under the names that ZFS would give them.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::answer::{Fail, Outcome, call, invalid, not_found};
use super::query::Query;
use super::schema::{self, Kind};
use super::{Inner, POOL};

const CONTAINERS: &str = "tank/.ix-virt/containers/";

struct Snapshot {
    label: String,
    nanos: i128,
}

impl Inner {
    pub fn instance_of(&self, dataset: &str) -> Option<String> {
        let name = dataset.strip_prefix(CONTAINERS)?;
        self.incus_instance(name).map(|_| name.to_owned())
    }

    fn snapshots(&self, instance: &str) -> Vec<Snapshot> {
        let path = format!("/1.0/instances/{instance}/snapshots?recursion=1");
        let found = self.incus.try_done("GET", &path, &Value::Null);
        let mut all: Vec<Snapshot> = found
            .unwrap_or_default()
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| {
                let made = one["created_at"].as_str().unwrap();
                Snapshot {
                    label: one["name"].as_str().unwrap().to_owned(),
                    nanos: OffsetDateTime::parse(made, &Rfc3339)
                        .unwrap()
                        .unix_timestamp_nanos(),
                }
            })
            .collect();
        all.sort_by_key(|one| one.nanos);
        all
    }

    fn shown(&self, dataset: &str, one: &Snapshot) -> Value {
        let id = format!("{dataset}@{}", one.label);
        let seconds = one.nanos / 1_000_000_000;
        let deferred = self.state.lock().unwrap().deferred.contains(&id);
        let number = |n: i128| json!({"value": "?", "rawvalue": n.to_string(), "source": "NONE", "parsed": n as i64});
        json!({
            "id": id, "name": id, "pool": POOL, "type": "SNAPSHOT", "snapshot_name": one.label,
            "dataset": dataset, "createtxg": one.nanos.to_string(), "holds": {},
            "properties": if self.is(26, 0) { json!({}) } else { json!({
                "creation": {"value": "then", "rawvalue": seconds.to_string(), "source": "NONE",
                             "parsed": {"$date": (seconds * 1000) as i64}},
                "referenced": number(1 << 20), "used": number(0),
                "defer_destroy": {"value": if deferred { "on" } else { "off" },
                    "rawvalue": if deferred { "on" } else { "off" }, "source": "NONE", "parsed": deferred},
            })},
        })
    }

    pub fn snapshot_call(&self, verb: &str, params: &[Value]) -> Outcome {
        match verb {
            "query" => {
                let query = Query::of(params)?;
                let dataset = query.wanted("dataset").unwrap_or_default();
                let found = match self.instance_of(dataset) {
                    Some(instance) => self.snapshots(&instance),
                    None => Vec::new(),
                };
                query.answer(found.iter().map(|one| self.shown(dataset, one)).collect())
            }
            "create" => self.snapshot_create(params),
            "delete" => self.snapshot_delete(params),
            "rollback" => self.snapshot_rollback(params),
            // It mounts what it makes, which a container's disk does not allow.
            "clone" => Err(call(14, "Failed to mount dataset")),
            _ => Err(Fail::Missing),
        }
    }

    fn snapshot_create(&self, params: &[Value]) -> Outcome {
        schema::count(params, 1, 1)?;
        let mut fields = vec![
            ("dataset", Kind::Text, true),
            ("name", Kind::Text, true),
            ("recursive", Kind::Bool, false),
            ("properties", Kind::Object, false),
        ];
        if !self.is(25, 10) {
            fields.push(("suspend_vms", Kind::Bool, false));
        }
        let spec = schema::object(params.first(), "data", &fields)?;
        let (dataset, label) = (
            spec["dataset"].as_str().unwrap(),
            spec["name"].as_str().unwrap(),
        );
        let Some(instance) = self.instance_of(dataset) else {
            return Err(call(
                14,
                format!("Failed to snapshot {dataset}@{label}: dataset does not exist"),
            ));
        };
        if self
            .snapshots(&instance)
            .iter()
            .any(|one| one.label == label)
        {
            return Err(call(
                17,
                format!("Failed to snapshot {dataset}@{label}: dataset already exists"),
            ));
        }
        let body = json!({"name": label, "stateful": false});
        let path = format!("/1.0/instances/{instance}/snapshots");
        self.incus
            .try_done("POST", &path, &body)
            .map_err(|e| call(14, e))?;
        let all = self.snapshots(&instance);
        let made = all.iter().find(|one| one.label == label);
        made.map(|one| self.shown(dataset, one))
            .ok_or_else(|| call(14, "it is gone"))
    }

    /// Dataset, instance and label of an id that exists.
    fn existing(&self, id: &str) -> Option<(String, String, String)> {
        let (dataset, label) = id.split_once('@')?;
        let instance = self.instance_of(dataset)?;
        let has = self
            .snapshots(&instance)
            .iter()
            .any(|one| one.label == label);
        has.then(|| (dataset.to_owned(), instance, label.to_owned()))
    }

    fn snapshot_delete(&self, params: &[Value]) -> Outcome {
        schema::count(params, 1, 2)?;
        let id = schema::text(params, 0, "id")?;
        let fields = [
            ("defer", Kind::Bool, false),
            ("recursive", Kind::Bool, false),
        ];
        let options = schema::object(params.get(1), "options", &fields)?;
        if options["recursive"] == true {
            self.wrong("a recursive deletion takes clones along".into());
        }
        let word = if self.is(25, 10) {
            "PoolSnapshot"
        } else {
            "ZFSSnapshot"
        };
        let Some((_, instance, label)) = self.existing(id) else {
            return Err(not_found(word, id));
        };
        let mut state = self.state.lock().unwrap();
        if state
            .clones
            .get(id)
            .is_some_and(|clones| !clones.is_empty())
        {
            if options["defer"] != true {
                return Err(invalid(
                    "options.defer",
                    "Please set this attribute as there are clones",
                ));
            }
            state.deferred.push(id.to_owned());
            return Ok(json!(true));
        }
        drop(state);
        self.drop_snapshot(&instance, &label)
            .map_err(|e| call(14, e))?;
        Ok(json!(true))
    }

    fn drop_snapshot(&self, instance: &str, label: &str) -> Result<Value, String> {
        let path = format!("/1.0/instances/{instance}/snapshots/{label}");
        self.incus.try_done("DELETE", &path, &Value::Null)
    }

    /// A deferred snapshot is deleted once its last clone is deleted.
    pub fn forget_clone(&self, instance: &str) {
        let mut due = Vec::new();
        {
            let mut state = self.state.lock().unwrap();
            let mut free = Vec::new();
            for (id, clones) in &mut state.clones {
                clones.retain(|clone| clone != instance);
                if clones.is_empty() {
                    free.push(id.clone());
                }
            }
            state.deferred.retain(|id| {
                let is_due = free.contains(id);
                if is_due {
                    due.push(id.clone());
                }
                !is_due
            });
        }
        for id in due {
            if let Some((_, instance, label)) = self.existing(&id) {
                let _ = self.drop_snapshot(&instance, &label);
            }
        }
    }

    fn snapshot_rollback(&self, params: &[Value]) -> Outcome {
        schema::count(params, 1, 2)?;
        let id = schema::text(params, 0, "id")?;
        let fields = [
            ("recursive", Kind::Bool, false),
            ("recursive_clones", Kind::Bool, false),
            ("force", Kind::Bool, false),
            ("recursive_rollback", Kind::Bool, false),
        ];
        let options = schema::object(params.get(1), "options", &fields)?;
        let Some((dataset, instance, label)) = self.existing(id) else {
            return Err(call(
                14,
                format!("cannot open '{id}': dataset does not exist"),
            ));
        };
        let before = self.incus_instance(&instance).unwrap_or_default();
        if before["status"] != "Stopped" {
            self.wrong(format!("a rollback under {instance}, which runs"));
        }
        let all = self.snapshots(&instance);
        let at = all.iter().position(|one| one.label == label).unwrap();
        let newer = &all[at + 1..];
        if !newer.is_empty() && options["recursive"] != true {
            let text =
                format!("cannot rollback to '{id}': more recent snapshots or bookmarks exist");
            return Err(call(14, format!("Failed to rollback snapshot: {text}")));
        }
        for one in newer {
            let newer_id = format!("{dataset}@{}", one.label);
            let clones = self.state.lock().unwrap().clones.get(&newer_id).cloned();
            if clones.is_some_and(|clones| !clones.is_empty()) {
                return Err(call(
                    14,
                    "Failed to rollback snapshot: clones of newer snapshots exist",
                ));
            }
        }
        for one in newer {
            self.drop_snapshot(&instance, &one.label)
                .map_err(|e| call(14, e))?;
        }
        let path = format!("/1.0/instances/{instance}");
        self.incus
            .try_done("PUT", &path, &json!({"restore": label}))
            .map_err(|e| call(14, e))?;
        // The disk alone goes back: what the service knows of it stays.
        let mut config = serde_json::Map::new();
        let after = self.incus_instance(&instance).unwrap_or_default();
        for source in [&after, &before] {
            for (key, value) in source["config"].as_object().into_iter().flatten() {
                if key.starts_with("environment.") {
                    let value = if std::ptr::eq(source, &after) {
                        json!("")
                    } else {
                        value.clone()
                    };
                    config.insert(key.clone(), value);
                }
            }
        }
        self.incus
            .try_done("PATCH", &path, &json!({"config": config}))
            .map_err(|e| call(14, e))?;
        Ok(Value::Null)
    }
}
