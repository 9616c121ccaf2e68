//! Git over SSH and HTTPS from a pixel with an egress allowlist.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::env::BINARY;
use crate::support::git::git;
use crate::support::lab;
use crate::support::walls::Walls;
use crate::support::wan::{SPARE, Wan};

const HOST: &str = "git.test";

/// Creates a bare repository with one commit that can be served as plain files.
fn repository(dir: &Path) -> PathBuf {
    let work = dir.join("work");
    std::fs::create_dir(&work).unwrap();
    git(&work, &["init", "-q"]);
    std::fs::write(work.join("file"), "from afar\n").unwrap();
    git(&work, &["add", "file"]);
    git(&work, &["commit", "-q", "-m", "one"]);
    git(dir, &["clone", "-q", "--bare", "work", "repo.git"]);
    let bare = dir.join("repo.git");
    git(&bare, &["update-server-info"]);
    bare
}

/// Answers GET requests with the files of a directory.
fn answer(stream: &mut (impl Read + Write), root: &Path) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head
        .split([' ', '?'])
        .nth(1)
        .unwrap_or("/")
        .trim_start_matches('/');
    let (status, body) = match std::fs::read(root.join(path)) {
        Ok(body) if !path.contains("..") => ("200 OK", body),
        _ => ("404 Not Found", Vec::new()),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)?;
    stream.flush()
}

#[test]
#[ignore = "needs Incus"]
fn git_clone_through_gateway_works_over_ssh_and_https() {
    lab::ready();
    let walls = Walls::new("git", Wan::any());
    let spare = walls.wan.address(SPARE);
    walls.wan.name(HOST, &[SPARE]);
    let files = tempfile::tempdir().unwrap();
    let work = files.path().join("work");
    let bare = repository(files.path());

    // The Git server is a pixel on the host's network.
    let open = walls.open("gits");
    let server = open.name("s");
    open.pixels(["create", &server]).ok();
    let prepare = "until apt-get -q -o DPkg::Lock::Timeout=60 update && \
                   DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends \
                   git openssh-server openssh-client; do tries=x$tries; [ $tries != xxxxx ] || exit 1; done >&2 && \
                   ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id && \
                   cp /root/.ssh/id.pub /root/.ssh/authorized_keys && systemctl restart ssh && \
                   mkdir -p /srv && tar -x -C /srv";
    let archive = Command::new("tar")
        .args(["-c", "-C"])
        .arg(files.path())
        .arg("repo.git")
        .output()
        .unwrap();
    let args = ["exec", "-u", "root", &server, "--", "sh", "-c", prepare];
    open.pixels_with(args, &archive.stdout).ok();
    open.checkpoint(&server, "ready");
    let started = open.pixels(["start", &server, "--json"]).ok().json();
    let address: IpAddr = started["ip"].as_str().unwrap().parse().unwrap();

    // README fetches commits from a pixel with this URL.
    let url = format!("ext::{BINARY} exec {server} -- git-upload-pack /srv/repo.git");
    let fetch = open
        .program("git", ["-c", "protocol.ext.allow=always", "fetch", "-q"])
        .args([&url, "HEAD:agent"])
        .current_dir(&work)
        .output()
        .unwrap();
    assert!(fetch.status.success(), "{fetch:?}");
    git(&work, &["diff", "--exit-code", "HEAD", "agent"]);

    let ssh = SocketAddr::new(address, 22);
    walls.wan.forward((spare, 22).into(), ssh);

    // An HTTPS server with its own certificate serves the same repository.
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([HOST.to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    let config = Arc::new(config);
    let root = bare.parent().unwrap().to_owned();
    walls
        .wan
        .host((spare, 443).into(), move |stream: &mut TcpStream, _| {
            let Ok(stream) = stream.try_clone() else {
                return;
            };
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            let _ = answer(&mut stream, &root);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        });

    // The Git client is a clone of the server, behind the gateway.
    let pixel = walls.env.name("c");
    let from = format!("{server}:ready");
    let policy = ["--egress", "allowlist", "--allow", "git.test:22"];
    let create = [&["create", &pixel, "--from", &from], &policy[..]].concat();
    walls.env.pixels(create).ok();
    let instance = walls.server.get(&format!("/1.0/instances/px-{pixel}"));
    assert_eq!(instance["devices"]["eth0"]["network"], walls.wan.bridge());
    walls.comes_to_connect(&pixel, HOST, 22);
    let ssh = "GIT_SSH_COMMAND='ssh -i /root/.ssh/id -o StrictHostKeyChecking=no' \
               git clone -q root@git.test:/srv/repo.git /root/by-ssh && cat /root/by-ssh/file";
    assert_eq!(walls.sh(&pixel, ssh).ok().stdout, "from afar\n");
    let args = ["exec", "-u", "root", &pixel, "--", "tee", "/root/ca.pem"];
    let certificate = certificate.pem();
    walls.env.pixels_with(args, certificate.as_bytes()).ok();
    let https = "rm -rf /root/by-https; timeout 20 git -c http.sslCAInfo=/root/ca.pem \
                 clone -q https://git.test/repo.git /root/by-https && cat /root/by-https/file";
    assert_ne!(walls.sh(&pixel, https).code, 0);
    let allow = ["network", "allow", &pixel, "git.test:443"];
    walls.env.pixels(allow).ok();
    assert_eq!(walls.sh(&pixel, https).ok().stdout, "from afar\n");
}
