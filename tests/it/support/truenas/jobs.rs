//! Jobs: ids, locks, queues and events in order.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Inner;
use super::answer::{Outcome, args, call};
use super::query::Query;

pub const COLLECTION: &str = "core.get_jobs";

pub struct Task {
    lock: String,
    /// Maximum number of jobs that wait for the lock.
    queue: usize,
    work: Box<dyn FnOnce(&Inner) -> Outcome + Send>,
}

/// Returns the task of a method that runs as a job, `None` for other methods.
/// The job validates the parameters, not the call.
pub fn task(method: &str, params: &[Value]) -> Option<Task> {
    let work: fn(&Inner, &str, &[Value]) -> Outcome = match method {
        "virt.instance.query" => return None,
        "cronjob.run" => |server, _, params| server.cron_run(params),
        "container.stop" | "container.delete" => Inner::container_job,
        _ if method.starts_with("virt.instance.") => Inner::virt_job,
        _ => return None,
    };
    let (space, verb) = method.rsplit_once('.')?;
    let first = params.first().unwrap_or(&Value::Null);
    let target = first.get("name").unwrap_or(first);
    let (verb, params) = (verb.to_owned(), params.to_vec());
    Some(Task {
        lock: format!("{space} {target}"),
        queue: if method == "cronjob.run" { 1 } else { 5 },
        work: Box::new(move |server| work(server, &verb, &params)),
    })
}

/// Fills the queue of a task with jobs of other clients for the same instance.
/// These jobs change nothing.
pub fn crowd(server: &Arc<Inner>, method: &str, params: &[Value], like: &Task) {
    let (method, others) = match params.first() {
        Some(Value::Object(spec)) => (method, vec![json!({"name": spec["name"], "image": "o"})]),
        Some(Value::String(name)) => (
            "virt.instance.update",
            vec![json!(name), json!({"autostart": false})],
        ),
        other => (method, vec![json!(other), json!(true)]),
    };
    for _ in 0..=like.queue {
        let task = Task {
            lock: like.lock.clone(),
            queue: like.queue,
            work: Box::new(|_| {
                std::thread::sleep(Duration::from_millis(100));
                Ok(json!(true))
            }),
        };
        let _ = submit(server, method, &others, "of another client", task, false);
    }
}

pub fn submit(
    server: &Arc<Inner>,
    method: &str,
    params: &[Value],
    call_id: &str,
    task: Task,
    fails: bool,
) -> Outcome {
    let Task { lock, queue, work } = task;
    let (id, job) = {
        let mut state = server.state.lock().unwrap();
        let waiting = state.queues.entry(lock.clone()).or_default();
        // The first job is running. A job over the limit is not created.
        if waiting.len() > queue {
            return Ok(json!(waiting.back()));
        }
        state.next_job += 1;
        let id = state.next_job;
        state.queues.entry(lock.clone()).or_default().push_back(id);
        // TrueNAS adds the defaults of omitted arguments.
        let mut shown = params.to_vec();
        for argument in shown.iter_mut().filter_map(Value::as_object_mut) {
            argument.insert("a_default".into(), Value::Null);
        }
        let mut job = json!({
            "id": id, "method": method, "arguments": shown, "result": null, "error": null,
            "exc_info": null, "state": "WAITING", "a_later_field": {"x": 1},
        });
        if server.is(25, 10) {
            job["message_ids"] = json!([call_id]);
        }
        state.jobs.insert(id, job.clone());
        (id, job)
    };
    // The event precedes the response with the job's id.
    server.tell("added", &job);
    let server = Arc::clone(server);
    std::thread::spawn(move || {
        let turn = || server.state.lock().unwrap().queues[&lock].front() == Some(&id);
        while !turn() {
            std::thread::sleep(Duration::from_millis(5));
        }
        update(&server, id, json!({"state": "RUNNING"}));
        let outcome = match fails {
            true => Err(call(14, "failure injected by the test")),
            false => work(&server),
        };
        match outcome {
            Ok(result) => {
                update(&server, id, json!({"state": "SUCCESS", "result": result}));
                // TrueNAS sends another event when it finalizes the job.
                update(&server, id, json!({"logs_excerpt": ""}));
            }
            Err(fail) => {
                let (error, info) = fail.of_job();
                let failure = json!({"state": "FAILED", "error": error, "exc_info": info});
                update(&server, id, failure);
            }
        }
        let mut state = server.state.lock().unwrap();
        if let Some(queue) = state.queues.get_mut(&lock) {
            queue.retain(|waiting| *waiting != id);
        }
    });
    Ok(json!(id))
}

fn update(server: &Inner, id: i64, fields: Value) {
    let job = {
        let mut state = server.state.lock().unwrap();
        // A simulated restart deletes all jobs.
        let Some(job) = state.jobs.get_mut(&id) else {
            return;
        };
        for (key, value) in fields.as_object().unwrap() {
            job[key] = value.clone();
        }
        job.clone()
    };
    server.tell("changed", &job);
}

pub fn query(server: &Inner, params: &[Value]) -> Outcome {
    let query: Query = args(params)?;
    let mut all: Vec<Value> = server
        .state
        .lock()
        .unwrap()
        .jobs
        .values()
        .cloned()
        .collect();
    if query.options.extra["raw_result"] != true {
        for job in &mut all {
            job["result"] = json!("********");
        }
    }
    query.answer(all)
}
