//! Cron jobs of root, without a shell. The only supported command replaces a
//! disk on the Incus daemon. Other commands exit with code 127.

use serde_json::{Value, json};

use super::Inner;
use super::answer::{Outcome, args, call, invalid, not_found};
use super::query::Query;

const ZFS: &str = "/usr/sbin/zfs";
/// Maximum length of a command, in characters.
const LONGEST_COMMAND: usize = 1024;

impl Inner {
    pub fn cron_create(&self, params: &[Value]) -> Outcome {
        let (mut entry,): (Value,) = args(params)?;
        // Disabled, so that the schedule has no effect, and without mail.
        let known = json!({"command": entry["command"], "user": "root", "enabled": false,
            "stdout": true, "stderr": true, "description": entry["description"],
            "schedule": {"minute": "00", "hour": "00", "dom": "1", "month": "1", "dow": "1"}});
        if entry != known {
            self.wrong(format!("unexpected cron job: {entry}"));
        }
        let command = entry["command"].as_str().unwrap_or_default();
        if command.contains('\n') || command.chars().count() > LONGEST_COMMAND {
            return Err(invalid("cron_job_create.command", "too long, or newlines"));
        }
        let mut state = self.state.lock().unwrap();
        state.next_cron += 1;
        let id = state.next_cron;
        entry["id"] = json!(id);
        state.cron.insert(id, entry.clone());
        Ok(entry)
    }

    pub fn cron_query(&self, params: &[Value]) -> Outcome {
        let all: Vec<Value> = self.state.lock().unwrap().cron.values().cloned().collect();
        args::<Query>(params)?.answer(all)
    }

    pub fn cron_delete(&self, params: &[Value]) -> Outcome {
        let (id,): (i64,) = args(params)?;
        let removed = self.state.lock().unwrap().cron.remove(&id);
        removed.ok_or_else(|| not_found("CronJob", &id.to_string()))
    }

    pub fn cron_run(&self, params: &[Value]) -> Outcome {
        let (id, skip_disabled): (i64, bool) = args(params)?;
        let found = self.state.lock().unwrap().cron.get(&id).cloned();
        let entry = found.ok_or_else(|| not_found("CronJob", &id.to_string()))?;
        let command = entry["command"].as_str().unwrap();
        let failed = |code: i32| {
            let text = format!("CronTask \"{command}\" exited with {code} (non-zero) exit status.");
            call(14, text)
        };
        if skip_disabled {
            self.wrong("skip_disabled is set for a disabled job".into());
        }
        let Some((source, new, target)) = understood(command) else {
            self.wrong(format!("unknown command: {command}"));
            return Err(failed(127));
        };
        self.exchange(source, new, target).map_err(|reason| {
            eprintln!("simulated zfs: {reason}");
            failed(1)
        })?;
        Ok(Value::Null)
    }

    /// Replaces the target's disk with a clone of the snapshot.
    fn exchange(&self, source: &str, new: &str, target: &str) -> Result<(), String> {
        if new != format!("{target}.pixels") {
            return Err(format!("{new} is not {target}.pixels"));
        }
        let (dataset, label) = source.split_once('@').ok_or("no snapshot")?;
        let instance_of = |dataset: &str| {
            self.instance_of(dataset)
                .ok_or(format!("{dataset} does not exist"))
        };
        let (from, to) = (instance_of(dataset)?, instance_of(target)?);
        let old = self.incus_instance(&to).ok_or("target not found")?;
        if old["status"] != "Stopped" {
            self.wrong(format!("the disk of running {to} is replaced"));
            return Err("dataset is busy".into());
        }
        let path = format!("/1.0/instances/{to}");
        let snapshot = format!("/1.0/instances/{from}/snapshots/{label}");
        self.incus.try_done("GET", &snapshot, &Value::Null)?;
        self.incus.try_done("DELETE", &path, &Value::Null)?;
        let mut config = old["config"].clone();
        let members = config.as_object_mut().unwrap();
        members.retain(|key, _| !key.starts_with("volatile.") && !key.starts_with("image."));
        let body = json!({
            "name": to, "type": "container", "profiles": old["profiles"], "config": config,
            "devices": old["devices"],
            "source": {"type": "copy", "source": format!("{from}/{label}"), "instance_only": true},
        });
        self.incus.try_done("POST", "/1.0/instances", &body)?;
        // Replace the source's environment variables with the target's.
        let made = self.incus_instance(&to).ok_or("clone not found")?;
        self.set_environment(&to, &made, &old)
            .map_err(|fail| format!("{fail:?}"))?;
        let mut state = self.state.lock().unwrap();
        state.clones.entry(source.to_owned()).or_default().push(to);
        Ok(())
    }
}

/// Returns snapshot, new dataset and target of a disk replacement command.
fn understood(command: &str) -> Option<(&str, &str, &str)> {
    let rest = command.strip_prefix(ZFS)?;
    let rest = rest.strip_prefix(" clone -o canmount=noauto -o mountpoint=legacy ")?;
    let (source, rest) = rest.split_once(' ')?;
    let (new, rest) = rest.split_once(' ')?;
    let rest = rest
        .strip_prefix("&& ")?
        .strip_prefix(ZFS)?
        .strip_prefix(" destroy -r ")?;
    let (target, rest) = rest.split_once(' ')?;
    let expected = format!("&& {ZFS} rename {new} {target} || {{ {ZFS} destroy {new}; false; }}");
    let sound = |name: &str| {
        name.chars()
            .all(|c| c.is_ascii_alphanumeric() || "/_.@-".contains(c))
    };
    (rest == expected && [source, new, target].into_iter().all(sound))
        .then_some((source, new, target))
}
