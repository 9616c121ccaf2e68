//! `container.*` of TrueNAS 26, as far as it is documented: numbers for names, and
//! no word of addresses.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Inner;
use super::answer::{Outcome, call, invalid, not_found};
use super::query::Query;
use super::schema::{self, Kind};

impl Inner {
    fn containers(&self) -> Vec<(i64, Value)> {
        let all = self.incus.get("/1.0/instances?recursion=1");
        let ours = all.as_array().unwrap().iter();
        ours.filter(|one| one["name"].as_str().unwrap().starts_with(&self.prefix))
            .enumerate()
            .map(|(number, one)| (i64::try_from(number).unwrap() + 1, one.clone()))
            .collect()
    }

    fn container(&self, params: &[Value]) -> Result<String, super::answer::Fail> {
        let id = schema::int(params, 0, "id")?;
        let all = self.containers();
        let found = all.iter().find(|(number, _)| *number == id);
        let found = found.ok_or_else(|| not_found("Container", &id.to_string()))?;
        Ok(found.1["name"].as_str().unwrap().to_owned())
    }

    pub fn container_query(&self, params: &[Value]) -> Outcome {
        let shown = self.containers().into_iter().map(|(id, one)| {
            let name = one["name"].as_str().unwrap();
            let state = one["status"].as_str().unwrap().to_uppercase();
            json!({"id": id, "uuid": "5b1f6d0c-6a5e-4d0e-8a3f-0d2f0c9f4c11", "name": name,
                "description": "", "devices": [], "cpuset": null, "autostart": false,
                "dataset": format!("tank/.ix-virt/containers/{name}"), "idmap": {"type": "DEFAULT"},
                "status": {"state": state, "pid": null, "domain_state": "?"}})
        });
        Query::of(params)?.answer(shown.collect())
    }

    /// No job.
    pub fn container_start(&self, params: &[Value]) -> Outcome {
        schema::count(params, 1, 1)?;
        let name = self.container(params)?;
        self.change(&name, &json!({"action": "start", "timeout": -1}))
            .map(|_| Value::Null)
            .map_err(|e| call(14, e))
    }

    pub fn container_job(self: &Arc<Self>, method: &str, params: &[Value]) -> Outcome {
        schema::count(params, 1, 2)?;
        let name = self.container(params)?;
        if method == "container.stop" {
            let fields = [
                ("force", Kind::Bool, false),
                ("force_after_timeout", Kind::Bool, false),
            ];
            schema::object(params.get(1), "options", &fields)?;
            return self
                .change(
                    &name,
                    &json!({"action": "stop", "timeout": -1, "force": true}),
                )
                .map(|_| Value::Null)
                .map_err(|e| call(14, e));
        }
        let fields = [
            ("force", Kind::Bool, false),
            ("recursive", Kind::Bool, false),
        ];
        let options = schema::object(params.get(1), "container_delete", &fields)?;
        if options["recursive"] == true {
            self.wrong("a recursive deletion takes clones along".into());
        }
        let path = format!("/1.0/instances/{name}/snapshots");
        let snapshots = self.incus.get(&path);
        if snapshots.as_array().is_some_and(|all| !all.is_empty()) {
            return Err(invalid("container_delete.recursive", "snapshots exist"));
        }
        self.incus
            .try_done("DELETE", &format!("/1.0/instances/{name}"), &Value::Null)
            .map_err(|e| call(14, e))?;
        Ok(Value::Null)
    }
}
