//! Whether an image server answers, asked over HTTPS as Incus would ask it.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::error::Error;
use super::facts::Reachability;
use crate::backend::incus::whole;

/// A server that takes longer is of no use to a waiting user.
const LIMIT: Duration = Duration::from_secs(4);

/// Of an index; the largest of the public servers' is a tenth of a MiB.
const INDEX: usize = 16 * 1024 * 1024;

/// Asks for the server's index. Only a real index counts: a proxy's error
/// page does not.
pub async fn image_server(url: &str) -> Result<Reachability, Error> {
    let index = format!("{}/streams/v1/index.json", url.trim_end_matches('/'));
    let http = client()?;
    let answer = match http.get(&index).timeout(LIMIT).send().await {
        Ok(answer) => answer,
        Err(error) => return Ok(Reachability::Unreachable(describe(&error))),
    };
    let clock_ahead = answer
        .headers()
        .get(reqwest::header::DATE)
        .and_then(|date| date.to_str().ok())
        .and_then(clock_ahead);
    let status = answer.status();
    if !status.is_success() {
        return Ok(Reachability::Unreachable(format!("it answers {status}")));
    }
    let body = match whole(answer, INDEX).await {
        Ok(Some(body)) => body,
        Ok(None) => {
            let limit = INDEX >> 20;
            let reason = format!("its answer to {index} is larger than {limit} MiB");
            return Ok(Reachability::Unreachable(reason));
        }
        Err(error) => return Ok(Reachability::Unreachable(describe(&error))),
    };
    match serde_json::from_slice::<serde_json::Value>(&body) {
        Ok(json) if json["index"].is_object() => Ok(Reachability::Reachable { clock_ahead }),
        _ => Ok(Reachability::Unreachable(
            "its answer is no image index".into(),
        )),
    }
}

fn client() -> Result<reqwest::Client, Error> {
    let setup = |text: String| Error::Io {
        doing: "cannot prepare HTTPS".into(),
        source: std::io::Error::other(text),
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| setup(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .build()
        .map_err(|e| setup(e.to_string()))
}

/// How far this machine's clock is ahead of an HTTP date, in seconds.
fn clock_ahead(date: &str) -> Option<i64> {
    // HTTP writes "GMT" where RFC 2822 has an offset.
    let theirs = OffsetDateTime::parse(&date.replace("GMT", "+0000"), &Rfc2822).ok()?;
    Some((OffsetDateTime::now_utc() - theirs).whole_seconds())
}

fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", LIMIT.as_secs());
    }
    let mut deepest: &dyn StdError = error;
    while let Some(inner) = deepest.source() {
        deepest = inner;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_understood() {
        let ahead = clock_ahead("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert!(ahead > 900_000_000, "{ahead}");
        assert_eq!(clock_ahead("yesterday"), None);
    }

    #[tokio::test]
    async fn an_index_has_a_bound() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            stream.read_buf(&mut Vec::new()).await.unwrap();
            let told = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", INDEX + 1);
            stream.write_all(told.as_bytes()).await.unwrap();
            stream
        });
        let reach = image_server(&url).await.unwrap();
        let Reachability::Unreachable(reason) = reach else {
            panic!("{reach:?}");
        };
        assert!(reason.ends_with("is larger than 16 MiB"), "{reason}");
        drop(serving);
    }

    #[tokio::test]
    async fn nobody_listening_is_unreachable_and_no_error() {
        let reach = image_server("https://127.0.0.1:1").await.unwrap();
        assert!(matches!(reach, Reachability::Unreachable(_)), "{reach:?}");
    }
}
