//! Opens SFTP sessions to running and stopped instances, over an upgraded
//! connection of the daemon.

use std::time::Duration;

use reqwest::header::{CONNECTION, UPGRADE};
use reqwest::{Method, StatusCode};

use super::client::{Client, encode};
use super::error::Failure;
use super::http::{MAX_ERROR, read_body};
use super::wire::Envelope;
use crate::backend::sftp::Files;

/// Deadline for mounting the instance's disk and starting a file server.
const OPENING: Duration = Duration::from_secs(30);

/// Opens an SFTP session. A missing instance is `Failure::Api` with code 404.
pub(super) async fn open(client: &Client, instance: &str) -> Result<Files, Failure> {
    let path = format!("/1.0/instances/{}/sftp", encode(instance));
    let lost = |error: reqwest::Error| Failure::http(client.endpoint(), &error);
    let attempt = async {
        let request = client.request(Method::GET, &path)?;
        let request = request
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "sftp");
        let answer = request.send().await.map_err(lost)?;
        let status = answer.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let body = read_body(answer, MAX_ERROR).await.map_err(lost)?;
            let refusal = serde_json::from_slice::<Envelope>(&body.unwrap_or_default());
            return Err(Failure::Api {
                code: status.as_u16(),
                message: refusal.map_or_else(
                    |_| format!("HTTP status {}", status.as_u16()),
                    |it| it.error,
                ),
            });
        }
        Files::open(answer.upgrade().await.map_err(lost)?)
            .await
            .map_err(|e| Failure::protocol(format!("sftp: {e}")))
    };
    tokio::time::timeout(OPENING, attempt)
        .await
        .unwrap_or_else(|_| Err(Failure::timed_out("opening the pixel's files", OPENING)))
}
