//! Checks whether the simplestreams image server is reachable over HTTPS.

use std::error::Error as StdError;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::error::Error;
use super::facts::Reachability;
use crate::backend::incus::read_body;
use crate::backend::tls::{self, TlsOptions};

/// Short, because a user waits for the check.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Size limit of an index. The largest index of a public server has 0.1 MiB.
const INDEX_LIMIT: usize = 16 * 1024 * 1024;

/// Downloads the index of the image server at `url`, waiting at most 4 s. Any
/// other response, such as a proxy's error page, is
/// [`Reachability::Unreachable`]. Fails only if no HTTPS client can be created.
pub async fn check_reachable(url: &str) -> Result<Reachability, Error> {
    let index = format!("{}/streams/v1/index.json", url.trim_end_matches('/'));
    let reachability = match read_index(&client()?, &index).await {
        Ok(clock_ahead) => Reachability::Reachable { clock_ahead },
        Err(reason) => Reachability::Unreachable(reason),
    };
    Ok(reachability)
}

/// Downloads the index. Returns [`clock_ahead`] for the response.
async fn read_index(http: &reqwest::Client, index: &str) -> Result<Option<i64>, String> {
    let response = http.get(index).timeout(TIMEOUT).send().await;
    let response = response.map_err(describe)?;
    let clock_ahead = response
        .headers()
        .get(reqwest::header::DATE)
        .and_then(|date| date.to_str().ok())
        .and_then(clock_ahead);
    let status = response.status();
    if !status.is_success() {
        return Err(format!("HTTP status {status}"));
    }
    let body = read_body(response, INDEX_LIMIT).await.map_err(describe)?;
    let too_large = || format!("{index} is larger than {} MiB", INDEX_LIMIT >> 20);
    let body = body.ok_or_else(too_large)?;
    match serde_json::from_slice::<serde_json::Value>(&body) {
        Ok(json) if json["index"].is_object() => Ok(clock_ahead),
        _ => Err(format!("{index} is not an image index")),
    }
}

fn client() -> Result<reqwest::Client, Error> {
    let failed = |text: String| {
        let source = std::io::Error::other(text);
        Error::io("cannot create an HTTPS client", source)
    };
    let tls = tls::config(&TlsOptions::default(), None).map_err(failed)?;
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .build()
        .map_err(|e| failed(e.to_string()))
}

/// Returns this machine's clock minus an HTTP date, in seconds. `None` if the
/// date is malformed.
fn clock_ahead(date: &str) -> Option<i64> {
    // HTTP dates contain "GMT" in place of the offset of RFC 2822.
    let server_time = OffsetDateTime::parse(&date.replace("GMT", "+0000"), &Rfc2822).ok()?;
    Some((OffsetDateTime::now_utc() - server_time).whole_seconds())
}

fn describe(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let mut root_cause: &dyn StdError = &error;
    while let Some(inner) = root_cause.source() {
        root_cause = inner;
    }
    root_cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_ahead_parses_http_dates() {
        let ahead = clock_ahead("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert!(ahead > 900_000_000, "{ahead}");
        assert_eq!(clock_ahead("yesterday"), None);
    }

    #[tokio::test]
    async fn oversized_index_is_unreachable() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            stream.read_buf(&mut Vec::new()).await.unwrap();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                INDEX_LIMIT + 1
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            stream
        });
        let reachability = check_reachable(&url).await.unwrap();
        let Reachability::Unreachable(reason) = reachability else {
            panic!("{reachability:?}");
        };
        assert!(reason.ends_with("is larger than 16 MiB"), "{reason}");
        drop(serving);
    }

    #[tokio::test]
    async fn refused_connection_is_unreachable() {
        let reachability = check_reachable("https://127.0.0.1:1").await.unwrap();
        assert!(
            matches!(reachability, Reachability::Unreachable(_)),
            "{reachability:?}"
        );
    }
}
