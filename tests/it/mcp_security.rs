//! Requests that the MCP server refuses, and overload that it survives.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::egress_flows::helper;
use crate::egress_pixel::sh;
use crate::support::lab;
use crate::support::mcp::{Client, MESSAGE_HEADERS, McpServer, environment, quick_base, text};
use crate::support::wait::eventually;
use crate::support::walls::Walls;
use crate::support::wan::Wan;
use crate::support::wan_pixel;

fn hello(client: &Client, headers: &[(&str, &str)]) -> u16 {
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}});
    client.message(&message, headers).map_or(0, |it| it.status)
}

#[test]
fn foreign_origins_and_wrong_tokens_are_refused() {
    let mut env = environment("mcp-guard");
    env.set("PIXELS_MCP_AUTH_TOKEN", "s3cret");
    let server = McpServer::start(&env);
    let mut client = server.client();
    let alive = client.send("GET", "/healthz", &[], "").unwrap();
    assert_eq!((alive.status, alive.body.as_str()), (200, "ok\n"));
    assert_eq!(hello(&client, &[]), 401);
    assert_eq!(hello(&client, &[("Authorization", "Bearer wrong")]), 401);
    let asked = client.send("POST", "/mcp", &[], "{}").unwrap();
    let asks = asked.head.to_lowercase();
    assert!(asks.contains("www-authenticate: bearer"), "{asks}");
    client.token = Some("s3cret".to_owned());
    assert_eq!(hello(&client, &[]), 200);
    for (name, value) in [
        ("Host", "evil.example"),
        ("Host", "evil.example:8765"),
        ("Origin", "http://evil.example"),
        ("Origin", "null"),
        ("Origin", "http://localhost:1234"),
    ] {
        assert_eq!(hello(&client, &[(name, value)]), 403, "{name}: {value}");
        let alive = client
            .send("GET", "/healthz", &[(name, value)], "")
            .unwrap();
        assert_eq!(alive.status, 403, "{name}: {value}");
    }
    let bearer = ("Authorization", "Bearer s3cret");
    for path in ["/", "/other", "/mcp/../etc/passwd", "/mcp/x"] {
        let answer = client.send("POST", path, &[bearer], "{}").unwrap();
        assert_eq!(answer.status, 404, "{path}");
    }
    let streamed = client.send("GET", "/mcp", &[bearer], "").unwrap();
    assert_eq!(streamed.status, 405);
    assert!(!server.log().contains("s3cret"));
    assert_eq!(server.end(), 0);
}

#[test]
fn public_address_requires_token() {
    let mut env = environment("mcp-public");
    env.set("PIXELS_MCP_LISTEN_ADDR", "0.0.0.0:0");
    let server = McpServer::start(&env);
    let mut client = server.client();
    client.address = client.address.replace("0.0.0.0", "127.0.0.1");
    assert_eq!(hello(&client, &[]), 401);
    let file = env.home().join(".cache/pixels/mcp-token");
    let token = std::fs::read_to_string(&file).unwrap();
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    client.token = Some(token.trim().to_owned());
    assert_eq!(hello(&client, &[]), 200);
    assert_eq!(hello(&client, &[("Host", "evil.example")]), 403);
}

#[test]
fn floods_do_not_stop_server() {
    let env = environment("mcp-flood");
    let server = McpServer::start(&env);
    let client = server.client();
    let length = (100 * 1024 * 1024).to_string();
    let large = "x".repeat(1024 * 1024);
    let too_long = [("Content-Length", length.as_str())];
    let answer = client.send("POST", "/mcp", &too_long, &large);
    assert!(answer.is_none_or(|it| it.status == 413));
    // Sends a request of 17 MiB.
    let text =
        json!({"jsonrpc": "2.0", "id": 1, "method": "x", "params": {"x": "y".repeat(17 << 20)}});
    assert!(client.message(&text, &[]).is_none_or(|it| it.status == 413));
    for text in ["", "{", "[]", "null", "{\"jsonrpc\":\"2.0\"}", "\u{0}"] {
        let answer = client.send("POST", "/mcp", &MESSAGE_HEADERS, text).unwrap();
        let status = answer.status;
        assert!((400..500).contains(&status), "{text}: {status}");
    }
    assert_eq!(hello(&client, &[]), 200);

    let mut open = Vec::new();
    for number in 0..1000 {
        let Ok(mut stream) = TcpStream::connect(&client.address) else {
            break;
        };
        // One half sends nothing, the other half sends incomplete requests.
        if number % 2 == 0 {
            let _ = stream.write_all(b"POST /mcp HTTP/1.1\r\nHost: loc");
        }
        open.push(stream);
    }
    // The server closes connections without a complete request.
    eventually("the server answers again", || hello(&client, &[]) == 200);
    drop(open);
    assert_eq!(hello(&client, &[]), 200);
    assert_eq!(server.end(), 0);
}

#[test]
fn second_server_with_same_state_fails() {
    let env = environment("mcp-single");
    let server = McpServer::start(&env);
    let second = env.pixels(["mcp"]).expect(1).stderr;
    assert!(second.contains("another server owns"), "{second}");
    let pid = std::fs::read_to_string(env.home().join(".cache/pixels/mcp.pid")).unwrap();
    assert!(second.contains(pid.trim()), "{second}");
    server.kill();
    let third = McpServer::start(&env);
    assert_eq!(third.end(), 0);
}

#[test]
#[ignore = "needs Incus"]
fn tools_accept_only_own_sandboxes_and_allowed_egress() {
    lab::ready();
    let mut env = environment("mcp-own");
    env.set("PIXELS_NETWORK_EGRESS", "agent")
        .set("PIXELS_MCP_MAX_SANDBOXES", "1");
    let foreign = env.name("foreign");
    let _ = env.pixels(["create", &foreign]).ok();
    let server = McpServer::start(&env);
    let client = server.client();
    let base = quick_base(&env);
    let name = client.sandbox("quick");
    for pixel in [foreign.as_str(), "gateway", base.as_str(), "../x", ""] {
        for (tool, more) in [
            ("destroy_sandbox", json!({})),
            ("stop_sandbox", json!({})),
            ("start_sandbox", json!({})),
            ("exec", json!({"command": ["true"]})),
            ("read_file", json!({"path": "/etc/passwd"})),
            ("fork_sandbox", json!({})),
            ("checkpoint_sandbox", json!({})),
            ("restore_sandbox", json!({"label": "initial"})),
            ("network_denials", json!({})),
        ] {
            let mut arguments = more;
            arguments["name"] = json!(pixel);
            let refusal = client.refused(tool, arguments);
            assert!(refusal.contains("no sandbox"), "{tool} {pixel}: {refusal}");
        }
    }
    // A clone created without this server is not a sandbox.
    let copy = env.name("copy");
    let _ = env.pixels(["create", &copy, "--from", &name]).ok();
    assert_eq!(client.list(), [(name.clone(), "running".to_owned())]);
    let refusal = client.refused("create_sandbox", json!({"base": "quick"}));
    assert!(refusal.contains("call destroy_sandbox first"), "{refusal}");
    for arguments in [
        json!({"egress": "unrestricted"}),
        json!({"egress": "allowlist", "allow": ["evil.example"]}),
        json!({"allow": ["10.0.0.0/8"]}),
    ] {
        let refusal = client.refused("create_sandbox", arguments);
        assert!(refusal.contains("limits"), "{refusal}");
    }
    client.call("destroy_sandbox", json!({"name": name}));
    let _ = client.refused("destroy_sandbox", json!({"name": name}));
    server.kill();
    let again = McpServer::start(&env);
    assert_eq!(again.client().list(), []);
    let mut remaining = env.remaining();
    remaining.sort();
    assert_eq!(remaining, [base, copy, foreign]);
}

#[test]
#[ignore = "needs Incus"]
fn restored_and_forked_sandboxes_keep_narrowed_policy() {
    lab::ready();
    let mut walls = Walls::new("mcp-narrow", Wan::any());
    walls.wan.name("one.test", &[10]);
    walls.wan.name("two.test", &[20]);
    walls.env = environment("mcp-narrow");
    walls
        .env
        .set("PIXELS_NETWORK_BRIDGE", &walls.wan.bridge())
        .set("PIXELS_NETWORK_EGRESS", "allowlist");
    walls.env.config(&format!(
        "[mcp.bases.quick]\nparent_image = \"ubuntu/24.04\"\n[defaults]\ndns = [\"{}\"]\n\
         [network]\nallow = [\"one.test\", \"two.test\", \"{}\"]\n",
        walls.wan.resolver(),
        walls.wan.address(22),
    ));
    let env = &walls.env;
    let server = McpServer::start(env);
    let client = server.client();
    let name = client.sandbox("quick");
    walls.comes_to_reach(&name, "two.test", 443);
    // A service that sends datagrams from the start of each boot.
    let hammer = format!(
        "printf '[Service]\\nRestart=always\\nExecStart=/usr/bin/perl -MSocket -e \
         \"socket S,2,2,0; while (1) {{ send S, q(pxtwideq), 0, pack_sockaddr_in 4433, \
         inet_aton q({}); select undef, undef, undef, 0.01 }}\"\\n[Install]\\n\
         WantedBy=multi-user.target\\n' >/etc/systemd/system/hammer.service; \
         systemctl enable --quiet --now hammer",
        walls.wan.address(22)
    );
    walls.sh(&name, &hammer).ok();
    eventually("the sandbox sends to the address", || {
        walls.wan.saw("pxtwideq")
    });
    let _ = client.call(
        "checkpoint_sandbox",
        json!({"name": name, "label": "early"}),
    );
    let address = walls.wan.address(22).to_string();
    env.pixels(["network", "deny", &name, "two.test", &address])
        .ok();

    // The present policy is narrower than that of the checkpoint.
    let only_allowed = |pixel: &str| {
        walls.comes_to_reach(pixel, "one.test", 443);
        let address = walls.wan.address(20).to_string();
        assert!(!walls.reaches(pixel, "two.test", 443));
        assert!(!walls.reaches(pixel, &address, 443));
    };
    let early = json!({"name": name, "label": "early"});
    // At the same time, another command applies the records of all pixels.
    walls.wan.forget();
    std::thread::scope(|scope| {
        let restores = scope.spawn(|| {
            for _ in 0..2 {
                let _ = client.call("restore_sandbox", early.clone());
                only_allowed(&name);
            }
        });
        while !restores.is_finished() {
            env.pixels(["network", "gateway", "status"]).ok();
        }
    });
    assert!(!walls.wan.saw("pxtwideq"));
    assert_eq!(
        walls.sh(&name, "systemctl is-active hammer").ok().stdout,
        "active\n"
    );
    let fork = json!({"name": name, "checkpoint": "early", "wait_sec": 60});
    let forked = client.call("fork_sandbox", fork.clone());
    assert_eq!(forked["status"], "running", "{forked}");
    only_allowed(&text(&forked["name"]));
    // The operator's own restore uses the policy of the checkpoint.
    env.pixels(["checkpoint", "restore", &name, "early"]).ok();
    walls.comes_to_reach(&name, "two.test", 443);

    // The denials of a scan are limited.
    helper(
        env,
        &name,
        &[&format!("scatter {} 5000", walls.wan.address(21))],
    );
    let denials = client.call("network_denials", json!({"name": name}));
    let count = denials["denials"].as_array().unwrap().len();
    assert!((100..=200).contains(&count), "{count}: {denials}");
    assert!(denials.to_string().len() < 64 << 10);

    // Neither present nor restored policies exceed the ceiling.
    env.pixels(["network", "set", &name, "unrestricted"]).ok();
    let _ = client.call("checkpoint_sandbox", json!({"name": name, "label": "wide"}));
    walls.wan.name("three.test", &[21]);
    let _ = client.call("restore_sandbox", json!({"name": name, "label": "wide"}));
    walls.comes_to_reach(&name, "two.test", 443);
    assert!(!walls.reaches(&name, "three.test", 443));
    let shown = env.pixels(["network", "show", &name, "--json"]).ok().json();
    assert_eq!(shown["mode"], "allowlist");
}

#[test]
#[ignore = "needs Incus"]
fn restored_and_forked_sandboxes_keep_narrowed_policy_in_pixel() {
    lab::ready();
    let wan = wan_pixel::Wan::up();
    let mut env = environment("mcp-inside");
    env.set("PIXELS_NETWORK_PLACEMENT", "pixel")
        .set("PIXELS_NETWORK_EGRESS", "allowlist");
    env.config(&format!(
        "[mcp.bases.quick]\nparent_image = \"ubuntu/24.04\"\n[defaults]\ndns = [\"{}\"]\n\
         [network]\nallow = [\"allowed.test\", \"api.openai.com\"]\n",
        wan.resolver()
    ));
    let reaches = |pixel: &str, host: &str| {
        let script = format!("timeout 5 head -n 1 </dev/tcp/{host}/80");
        sh(&env, pixel, &script).stdout.trim() == "hello"
    };
    let server = McpServer::start(&env);
    let client = server.client();
    let name = client.sandbox("quick");
    eventually("the sandbox reaches both hosts", || {
        reaches(&name, "allowed.test") && reaches(&name, "api.openai.com")
    });
    let early = json!({"name": name, "label": "early"});
    let _ = client.call("checkpoint_sandbox", early.clone());
    env.pixels(["network", "deny", &name, "api.openai.com"])
        .ok();

    let only_allowed = |pixel: &str| {
        eventually("the sandbox reaches the allowed host", || {
            reaches(pixel, "allowed.test")
        });
        assert!(!reaches(pixel, "api.openai.com"));
        assert!(!reaches(pixel, &wan.address(11)));
    };
    let _ = client.call("restore_sandbox", early);
    only_allowed(&name);
    let fork = json!({"name": name, "checkpoint": "early", "wait_sec": 60});
    let forked = client.call("fork_sandbox", fork);
    only_allowed(&text(&forked["name"]));
}
