//! Forwards local ports to ports in a pixel, on a real daemon.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{lab, wait};
use crate::transfer::Pixel;

/// Answers an HTTP request with its path, an upgrade request with an echo, and
/// `COUNT` with the number of bytes received before the end.
const SERVER: &str = r#"
use strict; use IO::Socket::INET; $SIG{CHLD} = "IGNORE";
my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 8000, Listen => 500) or die;
open(my $up, ">", "/srv/up"); close $up;
while (1) {
    my $c = $s->accept or next;
    next if fork; close $s;
    my ($first, $data, $n) = (scalar <$c>, "", 0);
    if ($first =~ /^COUNT/) { while (my $got = read($c, $data, 65536)) { $n += $got } print $c "$n"; exit }
    if ($first =~ /^SILENT/) { sleep 1000 }
    my ($path, $upgrade) = ($first =~ m{ (\S*) }, 0);
    while (my $line = <$c>) { $upgrade = 1 if $line =~ /^upgrade:/i; last if $line eq "\r\n" }
    if (!$upgrade) {
        print $c "HTTP/1.1 200 OK\r\nContent-Length: " . length($path) . "\r\n\r\n$path"; close $c; exit;
    }
    print $c "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\n\r\n"; $c->flush;
    while (sysread($c, $data, 65536)) { syswrite($c, $data) }
    exit;
}
"#;

pub struct Served(Pixel);

impl Served {
    pub fn new(pixel: Pixel) -> Self {
        let args = ["push", "-", &pixel.there("/srv/server.pl")];
        pixel.env.pixels_with(args, SERVER.as_bytes()).ok();
        pixel.sh("setsid perl /srv/server.pl >/dev/null 2>&1 </dev/null &");
        pixel.wait_for("/srv/up");
        Self(pixel)
    }

    /// The number of relay processes in the pixel.
    fn relays(&self) -> usize {
        let processes = self.0.sh("ps -eo args | grep -c '^perl -e'; true");
        processes.trim().parse().unwrap()
    }

    fn forward(&self, ports: &[&str]) -> (Child, Vec<u16>) {
        let args = ["forward", "--json", &self.0.name];
        let mut child = self.0.env.spawn(args.iter().chain(ports));
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        (child, ports_of(&serde_json::from_str(&line).unwrap()))
    }
}

fn ports_of(record: &serde_json::Value) -> Vec<u16> {
    let all = record["ports"].as_array().unwrap().iter();
    all.map(|port| u16::try_from(port["local"].as_u64().unwrap()).unwrap())
        .collect()
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(60)))
        .unwrap();
    stream
}

fn get(port: u16, path: &str) -> String {
    let mut stream = connect(port);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.rsplit("\r\n").next().unwrap().to_owned()
}

/// Opens a connection on which the server echoes all data.
fn upgraded(port: u16) -> (TcpStream, BufReader<TcpStream>) {
    let mut stream = connect(port);
    stream
        .write_all(b"GET / HTTP/1.1\r\nUpgrade: echo\r\n\r\n")
        .unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert_ne!(reader.read_line(&mut line).unwrap(), 0, "connection closed");
    }
    (stream, reader)
}

#[test]
#[ignore = "needs Incus"]
fn forward_relays_connections_until_it_exits() {
    lab::ready();
    carries(&Served::new(Pixel::new("forward")));
}

pub fn carries(served: &Served) {
    let (mut child, ports) = served.forward(&["0:8000", "0:8000", "0:81"]);
    let [one, two, closed] = ports[..] else {
        panic!("{ports:?}")
    };
    let requests: Vec<_> = (0..200u16)
        .map(|n| {
            std::thread::spawn(move || {
                let path = format!("/{n}");
                (get(if n % 2 == 0 { one } else { two }, &path), path)
            })
        })
        .collect();
    for request in requests {
        let (got, path) = request.join().unwrap();
        assert_eq!(got, path);
    }

    // Many upgraded connections relay data in both directions concurrently.
    let mut all: Vec<_> = (0..30).map(|_| upgraded(one)).collect();
    for _ in 0..5 {
        for (stream, reader) in &mut all {
            stream.write_all(b"ping").unwrap();
            let mut answer = [0; 4];
            reader.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"ping");
        }
    }
    let (stream, mut reader) = all.swap_remove(0);
    drop(all);
    let sent = vec![7u8; 3_000_000];
    let (mut to, data) = (stream.try_clone().unwrap(), sent.clone());
    let writer = std::thread::spawn(move || {
        to.write_all(&data).unwrap();
        to.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    reader.read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == sent);

    // Closing one direction keeps the other direction open.
    let mut stream = connect(two);
    stream.write_all(b"COUNT\n").unwrap();
    stream.write_all(&sent).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "3000000");

    // Without a listener in the pixel, the local connection is closed.
    assert_eq!(connect(closed).read(&mut [0; 1]).unwrap_or(0), 0);

    // Open connections are closed on both sides when the command ends.
    let mut silent = connect(one);
    silent.write_all(b"SILENT\n").unwrap();
    wait::eventually("the connection reaches the pixel", || served.relays() == 1);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(wait::exit_code(&mut child), 130);
    assert_eq!(silent.read(&mut [0; 1]).unwrap_or(0), 0);
    wait::eventually("no relay is left in the pixel", || served.relays() == 0);
    assert!(TcpStream::connect(("127.0.0.1", one)).is_err());
}

#[test]
#[ignore = "needs Incus"]
fn background_forwards_are_listed_and_stopped() {
    lab::ready();
    let served = Served::new(Pixel::new("background"));
    let (env, name) = (&served.0.env, served.0.name.as_str());
    let started = env
        .pixels(["forward", name, "-b", "--json", "0:8000"])
        .ok()
        .json();
    let port = ports_of(&started)[0];
    assert_eq!(get(port, "/x"), "/x");
    let (mut front, _) = served.forward(&["0:8000"]);
    let listed = env.pixels(["forward", "list", "--json"]).ok().json();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.contains(&started));
    // A port in use is reported immediately, also with `--background`.
    let taken = env.pixels(["forward", "--background", name, &format!("{port}:8000")]);
    assert_eq!(taken.code, 1);
    assert!(taken.stderr.contains("in use"), "{}", taken.stderr);
    let missing = env.pixels(["forward", "-b", "no-such-pixel", "0:1"]);
    assert_eq!(missing.code, 3, "{}", missing.stderr);
    // `forward list` omits a killed forward.
    front.kill().unwrap();
    front.wait().unwrap();
    let listed = env.pixels(["forward", "list", "--json"]).ok().json();
    assert_eq!(listed, serde_json::json!([started]));
    assert_eq!(env.pixels(["forward", "stop", "other"]).code, 3);
    assert_eq!(env.pixels(["forward", "stop"]).code, 2);
    env.pixels(["forward", "stop", name]).ok();
    let listed = env.pixels(["forward", "list", "--json"]).ok().json();
    assert_eq!(listed, serde_json::json!([]));
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    env.pixels(["forward", "stop", "--all"]).ok();
}
