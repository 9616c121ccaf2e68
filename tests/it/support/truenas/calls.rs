//! Dispatches method calls.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::answer::{Fail, Outcome, args, call, invalid};
use super::query::Query;
use super::wire::Peer;
use super::{API_KEY, Fault, Inner, LoginAnswer, POOL, jobs};

/// The only method that is allowed before login.
pub const LOGIN: &str = "auth.login_ex";

/// Whether this release has the namespace of `method`.
fn has(server: &Inner, method: &str) -> bool {
    match method.split_once('.') {
        Some(("virt", _)) => !server.is(26, 0),
        Some(("container", _)) => server.is(26, 0),
        Some(("zfs", _)) => !server.is(25, 10),
        Some(("pool", _)) => server.is(25, 10),
        _ => true,
    }
}

pub fn run(
    server: &Arc<Inner>,
    peer: &Peer,
    method: &str,
    params: &[Value],
    id: &str,
    fault: Option<Fault>,
) -> Outcome {
    if !has(server, method) {
        server.wrong(format!("{} has no {method}", server.version));
        return Err(Fail::NoMethod);
    }
    if let Some(task) = jobs::task(method, params) {
        if matches!(fault, Some(Fault::FullQueue)) {
            jobs::crowd(server, method, params, &task);
        }
        let fails = matches!(fault, Some(Fault::FailJob));
        return jobs::submit(server, method, params, id, task, fails);
    }
    match method {
        LOGIN => log_in(server, peer, params),
        "core.subscribe" => {
            let (event,): (String,) = args(params)?;
            if event == jobs::COLLECTION {
                peer.subscribed.store(true, Ordering::SeqCst);
            }
            Ok(json!("00000000-0000-4000-8000-000000000000"))
        }
        jobs::COLLECTION => jobs::query(server, params),
        "system.version" => {
            let []: [Value; 0] = args(params)?;
            Ok(json!(format!("TrueNAS-{}", server.version)))
        }
        "interface.query" => args::<Query>(params)?.answer(
            [("eno1", "PHYSICAL"), ("incusbr0", "BRIDGE")]
                .map(|(name, kind)| json!({"name": name, "type": kind, "a_later_field": true})),
        ),
        "network.general.summary" => {
            let found = server.incus.get("/1.0/networks/incusbr0");
            let bridge = found["config"]["ipv4.address"].as_str().unwrap();
            // Any other address in the bridge's subnet.
            let (network, _) = bridge.rsplit_once('.').unwrap();
            Ok(json!({"ips": {"incusbr0": {"IPV4": [bridge]}, "lo": {}},
                "default_routes": [format!("{network}.254")], "nameservers": ["192.0.2.1"]}))
        }
        "filesystem.stat" => server.stat(params),
        "filesystem.listdir" => server.listdir(params),
        "filesystem.file_receive" => server.file_receive(params),
        "virt.global.config" => {
            let state = server.state.lock().unwrap().service.clone();
            let state = state.unwrap_or_else(|| "INITIALIZED".into());
            Ok(json!({"id": 1, "pool": POOL, "v6_network": null, "state": state}))
        }
        "virt.instance.query" => server.virt_query(params),
        "container.query" => server.container_query(params),
        "container.start" => server.container_start(params),
        "cronjob.create" => server.cron_create(params),
        "cronjob.query" => server.cron_query(params),
        "cronjob.delete" => server.cron_delete(params),
        "zfs.snapshot.query" | "pool.snapshot.query" => server.snapshot_query(params),
        "zfs.snapshot.create" | "pool.snapshot.create" => server.snapshot_create(params),
        "zfs.snapshot.delete" | "pool.snapshot.delete" => server.snapshot_delete(params),
        "zfs.snapshot.rollback" | "pool.snapshot.rollback" => server.snapshot_rollback(params),
        other => {
            server.wrong(format!("{other} is not simulated"));
            Err(Fail::NoMethod)
        }
    }
}

fn log_in(server: &Inner, peer: &Peer, params: &[Value]) -> Outcome {
    server.state.lock().unwrap().logins += 1;
    if peer.spoilt.load(Ordering::SeqCst) {
        server.wrong("a second login on a connection after a failed login".into());
        return Err(call(14, "AUTH: unexpected authenticator run state"));
    }
    let (given,): (Value,) = args(params)?;
    let expected = json!({"mechanism": "API_KEY_PLAIN", "username": given["username"],
        "api_key": given["api_key"], "login_options": {"user_info": false}});
    if given != expected {
        return Err(invalid("login_data", "Input should be valid login data"));
    }
    if let LoginAnswer::Always(answer) = &server.state.lock().unwrap().login {
        peer.spoilt.store(true, Ordering::SeqCst);
        return Ok(answer.clone());
    }
    if given["api_key"] == API_KEY && given["username"] == "root" {
        peer.logged_in.store(true, Ordering::SeqCst);
        return Ok(
            json!({"response_type": "SUCCESS", "user_info": null, "authenticator": "LEVEL_1"}),
        );
    }
    peer.spoilt.store(true, Ordering::SeqCst);
    Ok(json!({"response_type": "AUTH_ERR"}))
}
