//! A client of the Incus API without code of pixels, to check and prepare the
//! state of a daemon. Opens one connection per request.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::http;
use super::wait::eventually;

/// Socket of the shared Incus daemon on this machine.
pub const SHARED: &str = "/var/lib/incus/unix.socket";
/// Timeout that only ends hanging requests.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Server {
    socket: PathBuf,
}

impl Server {
    pub fn shared() -> Self {
        Self::at(SHARED)
    }

    pub fn at(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Sends a request. Returns the whole response, including API errors.
    pub fn call(&self, method: &str, path: &str, body: &Value) -> io::Result<Value> {
        let body = match body {
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let (size, mut body) = (body.len() as u64, body.as_bytes());
        self.send(method, path, "application/json", size, &mut body)
    }

    /// Like [`Self::ask`], and parses the response as JSON.
    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        size: u64,
        body: &mut dyn Read,
    ) -> io::Result<Value> {
        let (head, answer) = self.ask(method, path, headers, size, body)?;
        serde_json::from_reader(answer)
            .map_err(|e| io::Error::other(format!("{method} {path}: {head}{e}")))
    }

    /// Sends a request and waits for its operation. Returns the metadata.
    pub fn try_done(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        self.end_of(method, path, self.call(method, path, body))
    }

    fn end_of(&self, method: &str, path: &str, answer: io::Result<Value>) -> Result<Value, String> {
        let reported = |e: io::Error| format!("{method} {path}: {e}");
        let mut answer = answer.map_err(reported)?;
        if answer["type"] == "async" {
            let operation = answer["operation"].as_str().unwrap_or_default().to_owned();
            answer = self
                .call("GET", &format!("{operation}/wait?timeout=-1"), &Value::Null)
                .map_err(reported)?;
            if answer["type"] != "error" && answer["metadata"]["status_code"] != 200 {
                return Err(format!("{method} {path}: {}", answer["metadata"]["err"]));
            }
        }
        if answer["type"] == "error" {
            return Err(format!("{method} {path}: {}", answer["error"]));
        }
        Ok(answer["metadata"].take())
    }

    #[track_caller]
    pub fn done(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_done(method, path, body)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.done("GET", path, &Value::Null)
    }

    /// Names of the pixels with this prefix, including incomplete pixels.
    #[track_caller]
    pub fn pixels(&self, prefix: &str) -> Vec<String> {
        let all = self.get("/1.0/instances?recursion=1");
        let begin = format!("px-{prefix}");
        all.as_array()
            .unwrap()
            .iter()
            .filter_map(|one| one["name"].as_str())
            .filter(|name| name.starts_with(&begin))
            .map(|name| name["px-".len()..].to_owned())
            .collect()
    }

    #[track_caller]
    pub fn checkpoints(&self, pixel: &str) -> Vec<String> {
        let all = self.get(&format!("/1.0/instances/px-{pixel}/snapshots?recursion=1"));
        all.as_array()
            .unwrap()
            .iter()
            .filter_map(|one| one["name"].as_str())
            .map(str::to_owned)
            .collect()
    }

    pub fn status(&self, pixel: &str) -> Option<String> {
        let path = format!("/1.0/instances/px-{pixel}");
        let found = self.try_done("GET", &path, &Value::Null).ok()?;
        found["status"].as_str().map(str::to_owned)
    }

    /// Waits until no operation runs on pixels with this name prefix.
    #[track_caller]
    pub fn settle(&self, prefix: &str) {
        let begin = format!("/1.0/instances/px-{prefix}");
        eventually("all operations have ended", || !self.works_on(&begin));
    }

    /// Whether no operation is running on the server.
    pub fn idle(&self) -> bool {
        !self.works_on("")
    }

    fn works_on(&self, resource: &str) -> bool {
        let all = self.get("/1.0/operations?recursion=1");
        let mut all = all
            .as_object()
            .unwrap()
            .values()
            .filter_map(Value::as_array)
            .flatten()
            .filter(|one| one["status_code"].as_u64().unwrap_or(0) < 200);
        all.any(|one| one["resources"].to_string().contains(resource))
    }

    /// Runs a command in an instance through the API. Returns its stdout.
    #[track_caller]
    pub fn run(&self, instance: &str, argv: &[&str]) -> String {
        let body = json!({
            "command": argv,
            "wait-for-websocket": false,
            "record-output": true,
        });
        let ended = self.done("POST", &format!("/1.0/instances/{instance}/exec"), &body);
        let log = ended["metadata"]["output"]["1"].as_str().unwrap();
        let (_, mut answer) = self.ask("GET", log, "", 0, &mut io::empty()).unwrap();
        let mut text = String::new();
        answer.read_to_string(&mut text).unwrap();
        let _ = self.call("DELETE", log, &Value::Null);
        text
    }

    /// Copies an image with this alias from another daemon.
    pub fn copy_image(&self, from: &Self, alias: &str, scratch: &Path) -> Result<(), String> {
        let reported = |e: io::Error| format!("copying image {alias}: {e}");
        let found = from.try_done("GET", &format!("/1.0/images/aliases/{alias}"), &Value::Null)?;
        let target = found["target"].as_str().unwrap_or_default();
        let path = format!("/1.0/images/{target}/export");
        let (head, mut export) = from
            .ask("GET", &path, "", 0, &mut io::empty())
            .map_err(reported)?;
        if !head.contains(" 200 ") {
            return Err(format!("{path}: {head}"));
        }
        let mut file = File::create_new(scratch).map_err(reported)?;
        let size = io::copy(&mut export, &mut file).map_err(reported)?;
        let mut file = File::open(scratch).map_err(reported)?;
        // The exported body and its content type are valid for an import.
        let headers = format!(
            "{}\r\nX-Incus-aliases: alias={}",
            http::field(&head, "content-type").unwrap_or_default(),
            alias.replace('/', "%2F")
        );
        let answer = self.send("POST", "/1.0/images", &headers, size, &mut file);
        self.end_of("POST", "/1.0/images", answer)?;
        std::fs::remove_file(scratch).map_err(reported)
    }

    /// Sends a request. Returns the response head and a reader of the body.
    /// `headers` starts with the value of Content-Type.
    fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        size: u64,
        body: &mut dyn Read,
    ) -> io::Result<(String, impl Read + use<>)> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        // An HTTP/1.0 response is not chunked and ends with the connection.
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: incus\r\nContent-Length: {size}\r\n\
             Content-Type: {headers}\r\n\r\n"
        )?;
        io::copy(body, &mut stream)?;
        stream.flush()?;
        let mut answer = BufReader::new(stream);
        let head = http::head(&mut answer)?.ok_or_else(|| io::Error::other("no answer"))?;
        Ok((head, answer))
    }
}
