//! A daemon over HTTPS with client certificates: the usual commands, and
//! missing trust on either side.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::json;

use crate::support::env::{Outcome, TestEnv, finished};
use crate::support::lab;
use crate::support::private_daemon::PrivateDaemon;
use crate::support::proxy::Wire;
use crate::support::pty::Pty;
use crate::support::wait::eventually;

/// Time limit of a command, to detect a hang.
const LIMIT: Duration = Duration::from_secs(60);

/// A daemon that listens on a port of the loopback interface.
struct Remote {
    daemon: PrivateDaemon,
    port: u16,
    /// The directory of certificates and keys.
    files: tempfile::TempDir,
}

impl Remote {
    fn start() -> Self {
        let daemon = PrivateDaemon::start();
        let files = tempfile::tempdir().unwrap();
        let port = listen(&daemon);
        Self {
            daemon,
            port,
            files,
        }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Creates a client certificate and its key.
    fn certificate(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let files = (self.file(name, "crt"), self.file(name, "key"));
        fs::write(&files.0, certificate.pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        fs::set_permissions(&files.1, fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    fn file(&self, name: &str, ending: &str) -> PathBuf {
        self.files.path().join(format!("{name}.{ending}"))
    }

    fn trust(&self, certificate: &Path) {
        let body = json!({
            "name": "tests",
            "type": "client",
            "certificate": der(certificate),
        });
        self.daemon.server.done("POST", "/1.0/certificates", &body);
    }

    /// An environment that reaches the daemon only over HTTPS.
    fn env(&self, test: &str) -> TestEnv {
        let mut env = TestEnv::new(test);
        env.set("PIXELS_INCUS_REMOTE", &self.url())
            .set("PIXELS_NETWORK_BRIDGE", &self.daemon.segment())
            .set("PIXELS_DEFAULT_IMAGE", &self.daemon.image);
        env
    }

    /// An environment in which client and server trust each other.
    fn trusted(&self, test: &str) -> TestEnv {
        let (certificate, key) = self.certificate(test);
        self.trust(&certificate);
        let mut env = self.env(test);
        set(&mut env, "PIXELS_INCUS_CLIENT_CERT", &certificate);
        set(&mut env, "PIXELS_INCUS_CLIENT_KEY", &key);
        set(
            &mut env,
            "PIXELS_INCUS_SERVER_CERT",
            &self.daemon.server_certificate(),
        );
        env
    }
}

fn listen(daemon: &PrivateDaemon) -> u16 {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let address = format!("127.0.0.1:{port}");
    let body = json!({"config": {"core.https_address": address}});
    daemon.server.done("PATCH", "/1.0", &body);
    port
}

/// The base64 text of a PEM file on one line.
fn der(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    text.lines().filter(|line| !line.starts_with('-')).collect()
}

fn set(env: &mut TestEnv, name: &str, path: &Path) {
    env.set(name, path.to_str().unwrap());
}

/// Runs pixels and expects this exit code and these words in the error.
#[track_caller]
fn refused(env: &TestEnv, args: &[&str], code: i32, words: &[&str]) -> Outcome {
    let outcome = env.pixels_within(args, LIMIT).expect(code);
    for word in words {
        assert!(outcome.stderr.contains(word), "{args:?}: {outcome:?}");
    }
    outcome
}

#[test]
#[ignore = "needs Incus"]
fn https_remote_supports_lifecycle_files_and_forward() {
    lab::ready();
    let remote = Remote::start();
    let env = remote.trusted("https");
    let (a, b) = (env.name("a"), env.name("b"));
    env.pixels(["create", &a]).ok();
    env.pixels(["exec", &a, "--", "sh", "-c", "exit 7"])
        .expect(7);
    let bytes: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let mut cat = env.spawn(["exec", &a, "--", "cat"]);
    let (mut stdin, sent) = (cat.stdin.take().unwrap(), bytes.clone());
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let echoed = cat.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(echoed.stdout == bytes, "{} bytes", echoed.stdout.len());
    let apart = env.pixels(["exec", &a, "--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!(
        (apart.stdout.as_str(), apart.stderr.as_str()),
        ("out\n", "err\n")
    );

    env.pixels(["exec", &a, "--", "touch", "/root/kept"]).ok();
    env.checkpoint(&a, "ready");
    env.pixels(["create", &b, "--from", &format!("{a}:ready")])
        .ok();
    let host = env.pixels(["exec", &b, "--", "hostname"]).ok().stdout;
    assert_eq!(host, format!("px-{b}\n"));
    env.pixels(["exec", &a, "--", "rm", "/root/kept"]).ok();
    env.pixels(["checkpoint", "restore", &a, "ready"]).ok();
    env.pixels(["exec", &a, "--", "ls", "/root/kept"]).ok();
    let listed = env.pixels(["list", "--json"]).ok().stdout;
    assert!(listed.contains(&a) && listed.contains(&b), "{listed}");

    // Allocates a terminal only in the pixel, then on both sides.
    let far = env.pixels(["exec", "-t", &a, "--", "tty"]).ok().stdout;
    assert!(far.starts_with("/dev/pts/"), "{far}");
    let mut console = Pty::pixels(&env, ["exec", &b, "--", "sh"]);
    console.send("echo \"[\"$(stty size)\"]\"\r");
    console.expect("[24 80]");
    console.send("exit 9\r");
    assert_eq!(console.exit_code(), 9);

    // Copies files and forwards a port.
    let (to, back) = (format!("{a}:/srv/bytes"), env.home().join("back"));
    env.pixels_with(["push", "-", &to], &bytes).ok();
    env.pixels(["pull", &to, back.to_str().unwrap()]).ok();
    assert!(fs::read(&back).unwrap() == bytes);
    env.pixels(["push", back.to_str().unwrap(), &format!("{a}:/srv/again")])
        .ok();
    let server = "use IO::Socket::INET; $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', \
                  LocalPort => 8000, Listen => 5) or die; open(U, '>', '/srv/up'); close U; \
                  while ($c = $s->accept) { print $c 'hello'; close $c }";
    let mut serving = env.spawn(["exec", &a, "--", "perl", "-e", server]);
    eventually("the server listens", || {
        env.pixels(["exec", &a, "--", "ls", "/srv/up"]).code == 0
    });
    let forward = env.pixels(["forward", &a, "-b", "--json", "0:8000"]).ok();
    let port = forward.json()["ports"][0]["local"].as_u64().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port).unwrap())).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "hello");
    drop(stream);
    env.pixels(["forward", "stop", &a]).ok();
    serving.kill().unwrap();
    serving.wait().unwrap();

    env.pixels(["destroy", &a, &b, "--force"]).ok();
    env.pixels(["exec", &a, "--", "true"]).expect(125);
    let doctor = env.pixels(["doctor", "--json"]);
    assert!(doctor.code < 2, "{doctor:?}");
}

#[test]
#[ignore = "needs Incus"]
fn server_certificate_is_verified() {
    lab::ready();
    let mut remote = Remote::start();
    let mut env = remote.trusted("trust");
    env.pixels(["list"]).ok();
    let print = fingerprint(&remote.daemon.server_certificate());

    // Pins a certificate that is not the server's.
    let (other, _) = remote.certificate("other");
    set(&mut env, "PIXELS_INCUS_SERVER_CERT", &other);
    for (args, code) in [
        (&["list"][..], 5),
        (&["create", "t-x"], 5),
        (&["exec", "t-x", "--", "true"], 125),
    ] {
        let words = [print.as_str(), "other.crt", "incus.server_cert"];
        let reported = refused(&env, args, code, &words).stderr;
        assert!(!reported.contains("left behind"), "{reported}");
    }

    // Without a pinned certificate, the system's CA certificates apply.
    env.set("PIXELS_INCUS_SERVER_CERT", "");
    refused(&env, &["list"], 5, &[&print, "not trusted"]);

    // `insecure` accepts any certificate.
    env.set("PIXELS_INCUS_INSECURE", "true");
    env.pixels(["list"]).ok();
    env.set("PIXELS_INCUS_INSECURE", "");

    // The file has no certificate.
    let empty = remote.file("empty", "crt");
    fs::write(&empty, "").unwrap();
    for file in [&empty, &remote.file("missing", "crt")] {
        set(&mut env, "PIXELS_INCUS_SERVER_CERT", file);
        refused(&env, &["list"], 2, &[file.to_str().unwrap()]);
    }

    // A CA signs the server certificate for this address.
    let ca = authority("CA of the tests");
    let ca_file = remote.file("ca", "crt");
    fs::write(&ca_file, ca.pem()).unwrap();
    let serve_as = |remote: &mut Remote, name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let signed = params.signed_by(&key, &ca).unwrap();
        remote.daemon.kill();
        fs::write(remote.daemon.server_certificate(), signed.pem()).unwrap();
        let key_file = remote.daemon.server_certificate().with_extension("key");
        fs::write(key_file, key.serialize_pem()).unwrap();
        remote.daemon.resume();
    };
    serve_as(&mut remote, "127.0.0.1");
    set(&mut env, "PIXELS_INCUS_SERVER_CERT", &ca_file);
    env.pixels(["list"]).ok();
    let impostor = authority("CA of the tests");
    let impostor_file = remote.file("impostor", "crt");
    fs::write(&impostor_file, impostor.pem()).unwrap();
    set(&mut env, "PIXELS_INCUS_SERVER_CERT", &impostor_file);
    env.pixels_within(["list"], LIMIT).expect(5);

    // The host name is checked for a CA, but not for a pinned certificate.
    serve_as(&mut remote, "elsewhere.test");
    set(&mut env, "PIXELS_INCUS_SERVER_CERT", &ca_file);
    refused(&env, &["list"], 5, &["ca.crt"]);
    let own = remote.daemon.server_certificate();
    set(&mut env, "PIXELS_INCUS_SERVER_CERT", &own);
    env.pixels(["list"]).ok();
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The fingerprint in hexadecimal, without colons.
fn fingerprint(certificate: &Path) -> String {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let der = CertificateDer::from_pem_file(certificate).unwrap();
    pixels::model::hex(ring::digest::digest(&ring::digest::SHA256, &der).as_ref())
}

#[test]
#[ignore = "needs Incus"]
fn client_certificate_is_required() {
    lab::ready();
    let remote = Remote::start();
    let mut env = remote.trusted("client");
    let (stranger, strange_key) = remote.certificate("stranger");

    // The client certificate is unknown or missing.
    let known = ["PIXELS_INCUS_CLIENT_CERT", "PIXELS_INCUS_CLIENT_KEY"];
    set(&mut env, known[0], &stranger);
    set(&mut env, known[1], &strange_key);
    for anonymous in [false, true] {
        if anonymous {
            env.set(known[0], "").set(known[1], "");
        }
        for (args, code) in [
            (&["list"][..], 5),
            (&["create", "t-x"], 5),
            (&["prune"], 5),
            (&["exec", "t-x", "--", "true"], 125),
        ] {
            refused(
                &env,
                args,
                code,
                &["not authorized", "trust add-certificate"],
            );
        }
        let doctor = env.pixels_within(["doctor"], LIMIT).expect(2);
        assert!(
            doctor.stdout.contains("trust add-certificate"),
            "{doctor:?}"
        );
    }

    // Only one of certificate and key is set.
    set(&mut env, known[0], &stranger);
    refused(&env, &["list"], 2, &["incus.client_key"]);
    env.set(known[0], "");
    set(&mut env, known[1], &strange_key);
    refused(&env, &["list"], 2, &["incus.client_cert"]);
    // The key does not match the certificate.
    let (_, other_key) = remote.certificate("other");
    set(&mut env, known[0], &stranger);
    set(&mut env, known[1], &other_key);
    refused(&env, &["list"], 2, &["stranger.crt"]);

    // The URL has no TLS, no host or no listener.
    for (url, code, reported) in [
        (format!("http://127.0.0.1:{}", remote.port), 2, "https://"),
        ("https://".into(), 2, "incus remote"),
        ("127.0.0.1".into(), 2, "incus remote"),
        (
            "https://127.0.0.1:1".into(),
            5,
            "cannot reach Incus at https://127.0.0.1:1",
        ),
    ] {
        let mut env = remote.env("url");
        env.set("PIXELS_INCUS_REMOTE", &url);
        refused(&env, &["list"], code, &[reported]);
    }
}

#[test]
#[ignore = "needs Incus"]
fn exec_with_cut_tls_connection_fails() {
    lab::ready();
    let remote = Remote::start();
    let mut env = remote.trusted("line");
    let name = env.create("a");
    let talk = "echo begun; while :; do sleep 0.01; echo more; done";
    for script in [talk, "echo begun; sleep 3000"] {
        for tty in ["-T", "-t"] {
            let wire = Wire::to(remote.port);
            let url = format!("https://127.0.0.1:{}", wire.port);
            env.set("PIXELS_INCUS_REMOTE", &url);
            let mut child = env.spawn(["exec", tty, &name, "--", "sh", "-c", script]);
            let mut begun = [0; 5];
            let stdout = child.stdout.as_mut().unwrap();
            stdout.read_exact(&mut begun).unwrap();
            assert_eq!(&begun, b"begun");
            wire.cut();
            let outcome = finished(child, LIMIT).expect(125);
            assert!(outcome.stderr.contains("cannot reach"), "{outcome:?}");
        }
    }
    env.set("PIXELS_INCUS_REMOTE", &remote.url());
}
