//! The job machine: numbers, locks, queues, and the events in their order.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Inner;
use super::answer::{Fail, Outcome, call};
use super::query::Query;

const COLLECTION: &str = "core.get_jobs";
/// So many may wait for one lock.
const QUEUE: usize = 5;

type Work = Box<dyn FnOnce(&Arc<Inner>) -> Outcome + Send>;

pub struct Task {
    lock: String,
    queue: usize,
    work: Work,
}

/// What a method does that is a job; `None` for the others. Its parameters
/// are looked at by the job, not by the call.
pub fn task(server: &Inner, method: &str, params: &[Value]) -> Option<Task> {
    let verb = method
        .strip_prefix("virt.instance.")
        .filter(|verb| ["create", "update", "start", "stop", "restart", "delete"].contains(verb));
    let params = params.to_vec();
    if let Some(verb) = verb {
        let first = params.first().cloned().unwrap_or_default();
        let name = first.as_str().or_else(|| first["name"].as_str());
        let verb = verb.to_owned();
        return Some(Task {
            lock: format!("instance_action_{}", name.unwrap_or_default()),
            queue: QUEUE,
            work: Box::new(move |server| server.virt_job(&verb, &params)),
        });
    }
    match method {
        "cronjob.run" => Some(Task {
            lock: format!("cron_job_run_{}", params.first().unwrap_or(&Value::Null)),
            queue: 1,
            work: Box::new(move |server| server.cron_run(&params)),
        }),
        "container.stop" | "container.delete" => {
            let verb = method.to_owned();
            let _ = server;
            Some(Task {
                lock: format!("container_{}", params.first().unwrap_or(&Value::Null)),
                queue: QUEUE,
                work: Box::new(move |server| server.container_job(&verb, &params)),
            })
        }
        _ => None,
    }
}

/// Fills the queue that the task would wait in, with work of others on the same
/// instance, which leaves it as it is.
pub fn crowd(server: &Arc<Inner>, method: &str, params: &[Value], like: &Task) {
    let (method, others) = match params.first() {
        Some(Value::Object(spec)) => (method, json!([{"name": spec["name"], "image": "other"}])),
        Some(Value::String(name)) => ("virt.instance.update", json!([name, {"autostart": false}])),
        other => (method, json!([other, true])),
    };
    for _ in 0..=like.queue {
        let task = Task {
            lock: like.lock.clone(),
            queue: like.queue,
            work: Box::new(|_| {
                std::thread::sleep(std::time::Duration::from_millis(100));
                Ok(json!(true))
            }),
        };
        let call = Some(json!("of another client"));
        let _ = submit(
            server,
            method,
            others.as_array().unwrap(),
            call,
            task,
            false,
        );
    }
}

pub fn submit(
    server: &Arc<Inner>,
    method: &str,
    params: &[Value],
    message: Option<Value>,
    task: Task,
    fails: bool,
) -> Outcome {
    let Task { lock, queue, work } = task;
    let (id, job) = {
        let mut state = server.state.lock().unwrap();
        let waiting = state.queues.entry(lock.clone()).or_default();
        // The first of them runs; one too many is not made at all.
        if waiting.len() > queue {
            return Ok(json!(waiting.back()));
        }
        state.next_job += 1;
        let id = state.next_job;
        state.queues.entry(lock.clone()).or_default().push_back(id);
        // With what was left out.
        let mut shown = params.to_vec();
        for argument in shown.iter_mut().filter_map(Value::as_object_mut) {
            argument.insert("a_default".into(), Value::Null);
        }
        let mut job = json!({
            "id": id, "method": method, "arguments": shown, "transient": false,
            "description": null, "abortable": false, "logs_path": null, "logs_excerpt": null,
            "progress": {"percent": 0, "description": "", "extra": null},
            "result": null, "result_encoding_error": null, "error": null, "exception": null,
            "exc_info": null, "state": "WAITING", "time_started": {"$date": 1},
            "time_finished": null, "credentials": {"type": "API_KEY", "data": {"username": "root"}},
            "a_later_field": {"x": 1},
        });
        if server.is(25, 10) {
            job["message_ids"] = json!(message.into_iter().collect::<Vec<_>>());
        }
        state.jobs.insert(id, job.clone());
        (id, job)
    };
    // Before the answer that has the number.
    server.tell(COLLECTION, "added", &json!(id), Some(&job));
    let server = Arc::clone(server);
    std::thread::spawn(move || {
        let turn = || server.state.lock().unwrap().queues[&lock].front() == Some(&id);
        while !turn() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        update(&server, id, &[("state", json!("RUNNING"))]);
        let outcome = match fails {
            true => Err(call(14, "it was made to fail")),
            false => work(&server),
        };
        end(&server, id, outcome);
        let mut state = server.state.lock().unwrap();
        if let Some(queue) = state.queues.get_mut(&lock) {
            queue.retain(|waiting| *waiting != id);
        }
    });
    Ok(json!(id))
}

fn end(server: &Inner, id: i64, outcome: Result<Value, Fail>) {
    let done = ("time_finished", json!({"$date": 2}));
    match outcome {
        Ok(result) => {
            let progress = json!({"percent": 100, "description": "", "extra": null});
            let success = [
                ("state", json!("SUCCESS")),
                ("result", result),
                ("progress", progress),
            ];
            update(server, id, &success);
            // Once more, when it is wrapped up.
            update(server, id, &[("logs_excerpt", json!("")), done]);
        }
        Err(fail) => {
            let (error, info) = fail.of_job();
            let failure = [
                ("state", json!("FAILED")),
                ("error", error),
                ("exception", json!("Traceback")),
                ("exc_info", info),
                done,
            ];
            update(server, id, &failure);
        }
    }
}

fn update(server: &Inner, id: i64, fields: &[(&str, Value)]) {
    let job = {
        let mut state = server.state.lock().unwrap();
        // Not after a restart.
        let Some(job) = state.jobs.get_mut(&id) else {
            return;
        };
        for (key, value) in fields {
            job[*key] = value.clone();
        }
        job.clone()
    };
    server.tell(COLLECTION, "changed", &json!(id), Some(&job));
}

pub fn query(server: &Inner, params: &[Value]) -> Outcome {
    let query = Query::of(params)?;
    let mut all: Vec<Value> = server
        .state
        .lock()
        .unwrap()
        .jobs
        .values()
        .cloned()
        .collect();
    if query.extra("raw_result") != &json!(true) {
        for job in &mut all {
            job["result"] = json!("********");
        }
    }
    query.answer(all)
}
