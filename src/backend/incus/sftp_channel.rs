//! Opens SFTP sessions to running and stopped instances, over an upgraded
//! connection of the daemon.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Client, encode};
use super::error::Failure;
use crate::backend::sftp::Files;

/// Deadline: the daemon mounts the instance's disk and starts a file server.
const OPENING: Duration = Duration::from_secs(30);
const HEADER_LIMIT: usize = 16 * 1024;

/// Opens a session. A missing instance is `Failure::Api` with code 404.
pub(super) async fn open(client: &Client, instance: &str) -> Result<Files, Failure> {
    let attempt = async {
        let transport = client.transport();
        let mut stream = transport.connect().await?;
        let lost = |e: std::io::Error| Failure::connection(client.endpoint(), &e);
        let path = client.scoped(&format!("/1.0/instances/{}/sftp", encode(instance)));
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: sftp\r\nConnection: Upgrade\r\n\r\n",
            transport.host()
        );
        let sent = stream.write_all(request.as_bytes()).await;
        sent.map_err(lost)?;
        stream.flush().await.map_err(lost)?;
        let mut header = Vec::new();
        // Byte by byte: the bytes after the header belong to SFTP.
        while !header.ends_with(b"\r\n\r\n") {
            if header.len() > HEADER_LIMIT {
                return Err(Failure::protocol("the header of the answer is too long"));
            }
            header.push(stream.read_u8().await.map_err(lost)?);
        }
        let status = parse_status(&header)?;
        if status != 101 {
            let mut rest = Vec::new();
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_buf(&mut rest)).await;
            let message = serde_json::from_slice::<super::wire::Envelope>(&rest)
                .map_or_else(|_| format!("HTTP status {status}"), |e| e.error);
            return Err(Failure::Api {
                code: status,
                message,
            });
        }
        Files::open(stream)
            .await
            .map_err(|e| Failure::protocol(format!("sftp: {e}")))
    };
    tokio::time::timeout(OPENING, attempt)
        .await
        .unwrap_or_else(|_| Err(Failure::timed_out("opening the pixel's files", OPENING)))
}

pub(super) fn parse_status(header: &[u8]) -> Result<u16, Failure> {
    std::str::from_utf8(header)
        .ok()
        .and_then(|text| text.split_whitespace().nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| Failure::protocol("the answer has no HTTP status"))
}
