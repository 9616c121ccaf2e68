//! Incus snapshots, shown with ZFS snapshot names.

use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::answer::{Outcome, args, call, invalid, not_found};
use super::query::Query;
use super::{Inner, POOL};

const CONTAINERS: &str = "tank/.ix-virt/containers/";

struct Snapshot {
    label: String,
    nanos: i128,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    dataset: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    defer: bool,
    recursive: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rollback {
    recursive: bool,
}

impl Inner {
    pub fn instance_of(&self, dataset: &str) -> Option<String> {
        let name = dataset.strip_prefix(CONTAINERS)?;
        self.incus_instance(name).map(|_| name.to_owned())
    }

    fn snapshots(&self, instance: &str) -> Vec<Snapshot> {
        let path = format!("/1.0/instances/{instance}/snapshots?recursion=1");
        let found = self.incus.try_done("GET", &path, &Value::Null);
        let found = found.unwrap_or_default();
        let shown = found.as_array().into_iter().flatten().map(|one| {
            let made = OffsetDateTime::parse(one["created_at"].as_str().unwrap(), &Rfc3339);
            Snapshot {
                label: one["name"].as_str().unwrap().to_owned(),
                nanos: made.unwrap().unix_timestamp_nanos(),
            }
        });
        let mut all: Vec<Snapshot> = shown.collect();
        all.sort_by_key(|one| one.nanos);
        all
    }

    fn shown(&self, dataset: &str, one: &Snapshot) -> Value {
        let id = format!("{dataset}@{}", one.label);
        let seconds = one.nanos / 1_000_000_000;
        let is_deferred = self.state.lock().unwrap().deferred.contains(&id);
        let property = |raw: String| json!({"value": "?", "rawvalue": raw, "source": "NONE"});
        json!({
            "id": id, "name": id, "pool": POOL, "snapshot_name": one.label, "dataset": dataset,
            "createtxg": one.nanos.to_string(),
            "properties": if self.is(26, 0) { json!({}) } else { json!({
                "creation": property(seconds.to_string()),
                "referenced": property((1 << 20).to_string()),
                "defer_destroy": property(if is_deferred { "on" } else { "off" }.to_owned()),
            })},
        })
    }

    pub fn snapshot_query(&self, params: &[Value]) -> Outcome {
        let query: Query = args(params)?;
        let dataset = query.wanted("dataset").unwrap_or_default();
        let instance = self.instance_of(dataset);
        let found = instance.map_or_else(Vec::new, |instance| self.snapshots(&instance));
        query.answer(found.iter().map(|one| self.shown(dataset, one)))
    }

    pub fn snapshot_create(&self, params: &[Value]) -> Outcome {
        let (Create { dataset, name },) = args(params)?;
        let refused = |errno, what: &str| {
            let text = format!("Failed to snapshot {dataset}@{name}: dataset {what}");
            Err(call(errno, text))
        };
        let Some(instance) = self.instance_of(&dataset) else {
            return refused(14, "does not exist");
        };
        if self.existing(&format!("{dataset}@{name}")).is_some() {
            return refused(17, "already exists");
        }
        let body = json!({"name": name, "stateful": false});
        let path = format!("/1.0/instances/{instance}/snapshots");
        Ok(self.incus.try_done("POST", &path, &body)?)
    }

    /// Dataset, instance and label of an existing snapshot id.
    fn existing(&self, id: &str) -> Option<(String, String, String)> {
        let (dataset, label) = id.split_once('@')?;
        let instance = self.instance_of(dataset)?;
        let all = self.snapshots(&instance);
        let has = all.iter().any(|one| one.label == label);
        has.then(|| (dataset.to_owned(), instance, label.to_owned()))
    }

    fn has_clones(&self, id: &str) -> bool {
        let clones = &self.state.lock().unwrap().clones;
        clones.get(id).is_some_and(|clones| !clones.is_empty())
    }

    pub fn snapshot_delete(&self, params: &[Value]) -> Outcome {
        let (id, options): (String, Delete) = args(params)?;
        if options.recursive {
            self.wrong("a recursive deletion also deletes clones".into());
        }
        let Some((_, instance, label)) = self.existing(&id) else {
            return Err(not_found("PoolSnapshot", &id));
        };
        if self.has_clones(&id) {
            if !options.defer {
                let text = "Please set this attribute as there are clones";
                return Err(invalid("options.defer", text));
            }
            self.state.lock().unwrap().deferred.push(id);
            return Ok(json!(true));
        }
        Ok(self.drop_snapshot(&instance, &label)?)
    }

    fn drop_snapshot(&self, instance: &str, label: &str) -> Result<Value, String> {
        let path = format!("/1.0/instances/{instance}/snapshots/{label}");
        self.incus.try_done("DELETE", &path, &Value::Null)
    }

    /// Records a clone's deletion. Deletes deferred snapshots without clones.
    pub fn forget_clone(&self, instance: &str) {
        let due: Vec<String> = {
            let state = &mut *self.state.lock().unwrap();
            for clones in state.clones.values_mut() {
                clones.retain(|clone| clone != instance);
            }
            let clones = &state.clones;
            let is_free = |id: &mut String| clones.get(id).is_none_or(Vec::is_empty);
            state.deferred.extract_if(.., is_free).collect()
        };
        for id in due {
            if let Some((_, instance, label)) = self.existing(&id) {
                let _ = self.drop_snapshot(&instance, &label);
            }
        }
    }

    pub fn snapshot_rollback(&self, params: &[Value]) -> Outcome {
        let (id, options): (String, Rollback) = args(params)?;
        let refused = |why: &str| {
            let text = format!("Failed to rollback snapshot: cannot rollback to '{id}': {why}");
            Err(call(14, text))
        };
        let Some((dataset, instance, label)) = self.existing(&id) else {
            return refused("dataset does not exist");
        };
        let before = self.incus_instance(&instance).unwrap_or_default();
        if before["status"] != "Stopped" {
            self.wrong(format!("a rollback of {instance}, which is not stopped"));
        }
        let all = self.snapshots(&instance);
        let at = all.iter().position(|one| one.label == label).unwrap();
        let newer = &all[at + 1..];
        if !newer.is_empty() && !options.recursive {
            return refused("more recent snapshots or bookmarks exist");
        }
        let has_clones = |one: &Snapshot| self.has_clones(&format!("{dataset}@{}", one.label));
        if newer.iter().any(has_clones) {
            return refused("clones of newer snapshots exist");
        }
        for one in newer {
            self.drop_snapshot(&instance, &one.label)?;
        }
        let path = format!("/1.0/instances/{instance}");
        self.incus
            .try_done("PUT", &path, &json!({"restore": label}))?;
        // A rollback restores only the disk, not the environment variables.
        let after = self.incus_instance(&instance).unwrap_or_default();
        self.set_environment(&instance, &after, &before)
    }

    /// Replaces the environment variables in `now` with those in `new`.
    pub fn set_environment(&self, instance: &str, now: &Value, new: &Value) -> Outcome {
        let variables = |of: &Value| {
            let all = of["config"].as_object().cloned().unwrap_or_default();
            let all = all.into_iter();
            all.filter(|(key, _)| key.starts_with("environment."))
        };
        // An empty value deletes a variable.
        let mut config: serde_json::Map<String, Value> =
            variables(now).map(|(key, _)| (key, json!(""))).collect();
        config.extend(variables(new));
        let path = format!("/1.0/instances/{instance}");
        let body = json!({"config": config});
        Ok(self.incus.try_done("PATCH", &path, &body)?)
    }
}
