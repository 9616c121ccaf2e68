//! `container.*` of TrueNAS 26 as documented: containers are identified by
//! number, and queries return no addresses.

use serde_json::{Value, json};

use super::Inner;
use super::answer::{Fail, Outcome, args, call, invalid, not_found};
use super::query::Query;

impl Inner {
    fn containers(&self) -> Vec<Value> {
        let shown = self.ours().into_iter().zip(1..).map(|(one, id)| {
            let name = one["name"].as_str().unwrap();
            let state = one["status"].as_str().unwrap().to_uppercase();
            json!({"id": id, "name": name, "cpuset": null, "a_later_field": [],
                "dataset": format!("tank/.ix-virt/containers/{name}"), "idmap": {"type": "DEFAULT"},
                "status": {"state": state, "pid": null, "domain_state": "?"}})
        });
        shown.collect()
    }

    fn container(&self, id: i64) -> Result<String, Fail> {
        let all = self.containers();
        let found = all.iter().find(|one| one["id"] == id);
        let found = found.ok_or_else(|| not_found("Container", &id.to_string()))?;
        Ok(found["name"].as_str().unwrap().to_owned())
    }

    pub fn container_query(&self, params: &[Value]) -> Outcome {
        args::<Query>(params)?.answer(self.containers())
    }

    /// Starts a container. The call does not create a job.
    pub fn container_start(&self, params: &[Value]) -> Outcome {
        let (id,): (i64,) = args(params)?;
        self.change(&self.container(id)?, "start", false, -1)
    }

    pub fn container_job(&self, verb: &str, params: &[Value]) -> Outcome {
        let (id, options): (i64, Value) = args(params)?;
        let name = self.container(id)?;
        let stops = [json!({"force": true}), json!({"force_after_timeout": true})];
        match verb {
            "stop" if stops.contains(&options) => self.change(&name, "stop", true, -1),
            "delete" if options == json!({"force": true, "recursive": false}) => {
                let snapshots = self.incus.get(&format!("/1.0/instances/{name}/snapshots"));
                if snapshots.as_array().is_some_and(|all| !all.is_empty()) {
                    return Err(invalid("container_delete.recursive", "snapshots exist"));
                }
                let path = format!("/1.0/instances/{name}");
                Ok(self.incus.try_done("DELETE", &path, &Value::Null)?)
            }
            _ => {
                self.wrong(format!("{verb} with unexpected options {options}"));
                Err(call(22, "not simulated"))
            }
        }
    }
}
