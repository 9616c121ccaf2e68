//! Which methods there are, and what each does.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::answer::{Outcome, call, invalid};
use super::query::Query;
use super::schema::{self, Kind};
use super::wire::Peer;
use super::{API_KEY, Fault, Inner, LoginAnswer, jobs};

const ALWAYS: &[&str] = &[
    "auth.login_ex",
    "core.ping",
    "core.subscribe",
    "core.unsubscribe",
    "core.set_options",
    "core.get_jobs",
    "core.job_abort",
    "system.version",
    "system.version_short",
    "interface.query",
    "network.general.summary",
    "filesystem.stat",
    "filesystem.listdir",
    "filesystem.file_receive",
    "cronjob.create",
    "cronjob.query",
    "cronjob.get_instance",
    "cronjob.run",
    "cronjob.delete",
];

const VIRT: &[&str] = &[
    "virt.global.config",
    "virt.instance.query",
    "virt.instance.get_instance",
    "virt.instance.create",
    "virt.instance.update",
    "virt.instance.start",
    "virt.instance.stop",
    "virt.instance.restart",
    "virt.instance.delete",
];

const LXC: &[&str] = &[
    "container.query",
    "container.get_instance",
    "container.create",
    "container.start",
    "container.stop",
    "container.delete",
    "lxc.config",
];

const SNAPSHOTS: &[&str] = &[
    "query",
    "get_instance",
    "create",
    "delete",
    "rollback",
    "clone",
];

/// Allowed before login.
pub fn is_open(method: &str) -> bool {
    ["auth.login_ex", "core.ping", "core.set_options"].contains(&method)
}

pub fn is_known(server: &Inner, method: &str) -> bool {
    let space = if server.is(25, 10) { "pool." } else { "zfs." };
    let snapshot = method
        .strip_prefix(space)
        .and_then(|rest| rest.strip_prefix("snapshot."))
        .is_some_and(|verb| SNAPSHOTS.contains(&verb));
    let containers = if server.is(26, 0) { LXC } else { VIRT };
    let known = snapshot || ALWAYS.contains(&method) || containers.contains(&method);
    if !known {
        server.wrong(format!("{} has no {method}", server.version));
    }
    known
}

pub fn run(
    server: &Arc<Inner>,
    peer: &Arc<Peer>,
    method: &str,
    params: &[Value],
    id: Option<Value>,
    fault: Option<Fault>,
) -> Outcome {
    if let Some((_, verb)) = method.split_once(".snapshot.") {
        return server.snapshot_call(verb, params);
    }
    if let Some(task) = jobs::task(server, method, params) {
        if matches!(fault, Some(Fault::FullQueue)) {
            jobs::crowd(server, method, params, &task);
        }
        let fails = matches!(fault, Some(Fault::FailJob));
        return jobs::submit(server, method, params, id, task, fails);
    }
    match method {
        "auth.login_ex" => log_in(server, peer, params),
        "core.ping" => Ok(json!("pong")),
        "core.set_options" => Ok(Value::Null),
        "core.subscribe" => {
            schema::count(params, 1, 1)?;
            peer.subscribe(schema::text(params, 0, "event")?);
            Ok(json!(format!(
                "00000000-0000-4000-8000-{:012}",
                server.unique()
            )))
        }
        "core.unsubscribe" | "core.job_abort" => Ok(Value::Null),
        "core.get_jobs" => jobs::query(server, params),
        "system.version" => {
            schema::count(params, 0, 0)?;
            Ok(json!(format!("TrueNAS-{}", server.version)))
        }
        "system.version_short" => Ok(json!(server.version)),
        "interface.query" => interfaces(server, params),
        "network.general.summary" => Ok(json!({
            "ips": {"incusbr0": {"IPV4": [bridge(server)]}, "lo": {}},
            "default_routes": [gateway(server)], "nameservers": ["192.0.2.1"],
        })),
        "filesystem.stat" => {
            schema::count(params, 1, 1)?;
            server.stat(schema::text(params, 0, "path")?)
        }
        "filesystem.listdir" => server.listdir(params),
        "filesystem.file_receive" => server.file_receive(params),
        "virt.global.config" => {
            let bridge = bridge(server);
            let state = server.service.lock().unwrap().clone();
            Ok(
                json!({"id": 1, "pool": super::POOL, "dataset": "tank/.ix-virt",
                "storage_pools": [super::POOL], "bridge": null, "v4_network": bridge,
                "v6_network": null, "state": state}),
            )
        }
        "virt.instance.query" => server.virt_query(params),
        "virt.instance.get_instance" => server.virt_get(params),
        "container.query" => server.container_query(params),
        "container.start" => server.container_start(params),
        "lxc.config" => Ok(json!({"id": 1, "preferred_pool": super::POOL, "bridge": null})),
        "cronjob.create" => server.cron_create(params),
        "cronjob.query" => server.cron_query(params),
        "cronjob.delete" => server.cron_delete(params),
        other => {
            server.wrong(format!("the simulator has no {other}"));
            Err(call(22, "not simulated"))
        }
    }
}

fn log_in(server: &Inner, peer: &Peer, params: &[Value]) -> Outcome {
    schema::count(params, 1, 1)?;
    server.state.lock().unwrap().logins += 1;
    if peer.spoilt.load(Ordering::SeqCst) {
        server.wrong("a second login on a connection whose first failed".into());
        return Err(call(
            14,
            "AUTH: unexpected authenticator run state. Expected: START",
        ));
    }
    let fields = [
        ("mechanism", Kind::Text, true),
        ("username", Kind::Text, true),
        ("api_key", Kind::Text, true),
        ("login_options", Kind::Object, false),
    ];
    let given = schema::object(params.first(), "login_data", &fields)?;
    let options = schema::object(
        given.get("login_options"),
        "login_data.login_options",
        &[("user_info", Kind::Bool, false)],
    )?;
    if given["mechanism"] != "API_KEY_PLAIN" || options["user_info"] != false {
        return Err(invalid("login_data.mechanism", "Input should be another"));
    }
    if let LoginAnswer::Always(answer) = &*server.login.lock().unwrap() {
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

fn bridge(server: &Inner) -> String {
    let found = server.incus.get("/1.0/networks/incusbr0");
    found["config"]["ipv4.address"].as_str().unwrap().to_owned()
}

/// Some other address of the bridge's network.
fn gateway(server: &Inner) -> String {
    let bridge = bridge(server);
    let (address, _) = bridge.split_once('/').unwrap();
    let (network, _) = address.rsplit_once('.').unwrap();
    format!("{network}.254")
}

fn interfaces(server: &Inner, params: &[Value]) -> Outcome {
    let live = bridge(server);
    let (address, bits) = live.split_once('/').unwrap();
    let bits: u32 = bits.parse().unwrap();
    let entry = |name: &str, kind: &str, aliases: Value| {
        json!({"id": name, "name": name, "fake": false, "type": kind,
            // Static addresses alone; those by DHCP are in the state.
            "aliases": [], "ipv4_dhcp": true, "ipv6_auto": false, "description": "", "mtu": null,
            "state": {"name": name, "link_state": "LINK_STATE_UP", "aliases": aliases},
            "a_later_field": true})
    };
    Query::of(params)?.answer(vec![
        entry(
            "eno1",
            "PHYSICAL",
            json!([{"type": "LINK", "address": "00:00:5e:00:53:01"}]),
        ),
        entry(
            "incusbr0",
            "BRIDGE",
            json!([{"type": "INET", "address": address, "netmask": bits}]),
        ),
    ])
}
