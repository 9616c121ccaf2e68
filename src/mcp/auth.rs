//! Authentication of HTTP requests by Host header, Origin header and bearer
//! token. Web pages can make a browser send requests to servers on the user's
//! machine; the checks of Host and Origin reject such requests.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header};
use ring::hmac;

use crate::secret::Secret;

#[derive(Debug)]
pub struct Authenticator {
    /// Accepted Host names besides localhost and loopback addresses.
    hosts: Vec<String>,
    origins: Vec<String>,
    /// Whether other machines can reach the server. If so, any IP address is
    /// accepted as Host.
    public: bool,
    token: Option<Secret>,
}

/// The response to a rejected request.
pub type Rejection = (StatusCode, &'static str);

impl Authenticator {
    pub fn new(
        hosts: Vec<String>,
        origins: Vec<String>,
        public: bool,
        token: Option<Secret>,
    ) -> Self {
        Self {
            hosts: hosts.iter().map(|host| host.to_lowercase()).collect(),
            origins: origins.iter().map(|it| it.to_lowercase()).collect(),
            public,
            token,
        }
    }

    /// Returns the authenticator for a Unix socket that only its owner can
    /// open. Requires no token, and the Host that [`super::stdio`] sends.
    pub fn unix_socket() -> Self {
        Self::new(vec!["pixels".into()], Vec::new(), false, None)
    }

    /// Checks Host, Origin and token.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Rejection> {
        self.check_names(headers)?;
        let Some(token) = &self.token else {
            return Ok(());
        };
        let sent = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        // `hmac::verify` compares in constant time.
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"pixels mcp token");
        let tag = hmac::sign(&key, token.expose().as_bytes());
        if sent.is_some_and(|it| hmac::verify(&key, it.as_bytes(), tag.as_ref()).is_ok()) {
            return Ok(());
        }
        Err((
            StatusCode::UNAUTHORIZED,
            "a bearer token is required; see mcp.auth_token",
        ))
    }

    /// Checks Host and Origin. A web page cannot forge these headers.
    pub fn check_names(&self, headers: &HeaderMap) -> Result<(), Rejection> {
        let forbidden = |reason| Err((StatusCode::FORBIDDEN, reason));
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return forbidden("exactly one Host header is required");
        };
        if !host.to_str().is_ok_and(|host| self.is_own_host(host)) {
            return forbidden("this Host is not allowed; see mcp.allowed_hosts");
        }
        for origin in headers.get_all(header::ORIGIN) {
            let allowed = origin
                .to_str()
                .is_ok_and(|it| self.origins.contains(&it.to_lowercase()));
            if !allowed {
                return forbidden("this Origin is not allowed; see mcp.allowed_origins");
            }
        }
        Ok(())
    }

    fn is_own_host(&self, authority: &str) -> bool {
        let authority = authority.to_lowercase();
        if self.hosts.contains(&authority) {
            return true;
        }
        let host = without_port(&authority);
        if host == "localhost" || self.hosts.iter().any(|it| it == host) {
            return true;
        }
        // DNS rebinding needs a host name: the browser sends the host name of
        // the page as Host, never an address.
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback() || self.public)
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // A colon inside an IPv6 address does not start a port.
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn status(authenticator: &Authenticator, pairs: &[(&'static str, &str)]) -> u16 {
        authenticator
            .check(&headers(pairs))
            .map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn foreign_hosts_and_origins_are_rejected() {
        let authenticator = Authenticator::new(
            vec!["Box.example".into()],
            vec!["https://App.example".into()],
            false,
            None,
        );
        for (host, expected) in [
            ("localhost", 200),
            ("localhost:8765", 200),
            ("127.0.0.1:1", 200),
            ("127.0.0.9", 200),
            ("[::1]:8765", 200),
            ("box.example:80", 200),
            ("evil.example", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example:8765", 403),
            ("192.0.2.1", 403),
            ("", 403),
        ] {
            assert_eq!(
                status(&authenticator, &[("host", host)]),
                expected,
                "{host}"
            );
        }
        assert_eq!(status(&authenticator, &[]), 403);
        assert_eq!(
            status(&authenticator, &[("host", "localhost"), ("host", "a")]),
            403
        );
        for (origin, expected) in [
            ("https://app.example", 200),
            ("https://app.example:8443", 403),
            ("http://app.example", 403),
            ("http://localhost:8765", 403),
            ("null", 403),
        ] {
            let pairs = [("host", "localhost"), ("origin", origin)];
            assert_eq!(status(&authenticator, &pairs), expected, "{origin}");
        }
        let public = Authenticator::new(Vec::new(), Vec::new(), true, None);
        assert_eq!(status(&public, &[("host", "192.0.2.1:8765")]), 200);
        assert_eq!(status(&public, &[("host", "evil.example")]), 403);
    }

    #[test]
    fn wrong_token_is_rejected_after_host_and_origin() {
        let token = Secret::new("s3cret");
        let authenticator = Authenticator::new(Vec::new(), Vec::new(), false, Some(token));
        for (authorization, expected) in [
            ("Bearer s3cret", 200),
            ("bearer s3cret", 200),
            ("Bearer s3cre", 401),
            ("Bearer s3cret2", 401),
            ("Bearer", 401),
            ("Basic s3cret", 401),
            ("s3cret", 401),
        ] {
            let pairs = [("host", "localhost"), ("authorization", authorization)];
            assert_eq!(status(&authenticator, &pairs), expected, "{authorization}");
        }
        assert_eq!(status(&authenticator, &[("host", "localhost")]), 401);
        assert_eq!(status(&authenticator, &[("host", "evil.example")]), 403);
        assert!(!format!("{authenticator:?}").contains("s3cret"));
    }
}
