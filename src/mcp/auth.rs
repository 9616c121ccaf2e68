//! Who may call: by the name the server was called under, by the page a
//! browser calls from, by token. Web pages can make a browser call servers on
//! its own machine; neither of the first two lets them through.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header};
use ring::hmac;

use crate::secret::Secret;

#[derive(Debug)]
pub struct Authenticator {
    /// Names beside those of this machine.
    hosts: Vec<String>,
    origins: Vec<String>,
    /// Reached by an address of its own, not only from this machine.
    public: bool,
    token: Option<Token>,
}

/// Only a keyed hash is kept, and compared in constant time.
struct Token {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Secret::MASK)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Rejection {
    pub status: StatusCode,
    pub reason: &'static str,
}

impl Authenticator {
    pub fn new(
        hosts: Vec<String>,
        origins: Vec<String>,
        public: bool,
        token: Option<&Secret>,
    ) -> Self {
        let token = token.map(|token| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, b"pixels mcp token");
            Token {
                tag: hmac::sign(&key, token.expose().as_bytes()),
                key,
            }
        });
        Self {
            hosts: hosts.iter().map(|host| host.to_lowercase()).collect(),
            origins: origins.iter().map(|it| it.to_lowercase()).collect(),
            public,
            token,
        }
    }

    /// For those who reach us by a file that only the user can open.
    pub fn unix_socket() -> Self {
        Self::new(vec!["pixels".into()], Vec::new(), false, None)
    }

    pub fn check(&self, headers: &HeaderMap) -> Result<(), Rejection> {
        self.check_names(headers)?;
        let Some(token) = &self.token else {
            return Ok(());
        };
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        let right = given.is_some_and(|given| {
            hmac::verify(&token.key, given.as_bytes(), token.tag.as_ref()).is_ok()
        });
        if right {
            return Ok(());
        }
        Err(Rejection {
            status: StatusCode::UNAUTHORIZED,
            reason: "a bearer token is required: see mcp.auth_token",
        })
    }

    /// What a browser cannot lie about.
    pub fn check_names(&self, headers: &HeaderMap) -> Result<(), Rejection> {
        let forbidden = |reason| {
            Err(Rejection {
                status: StatusCode::FORBIDDEN,
                reason,
            })
        };
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return forbidden("exactly one Host header is expected");
        };
        if !host.to_str().is_ok_and(|host| self.is_ours(host)) {
            return forbidden("this server does not go by that Host; see mcp.allowed_hosts");
        }
        for origin in headers.get_all(header::ORIGIN) {
            let known = origin
                .to_str()
                .is_ok_and(|it| self.origins.contains(&it.to_lowercase()));
            if !known {
                return forbidden("pages of that Origin may not call; see mcp.allowed_origins");
            }
        }
        Ok(())
    }

    fn is_ours(&self, authority: &str) -> bool {
        let authority = authority.to_lowercase();
        if self.hosts.contains(&authority) {
            return true;
        }
        let host = without_port(&authority);
        if host == "localhost" || self.hosts.iter().any(|it| it == host) {
            return true;
        }
        // A page that was led here by a name of its own keeps that name; an
        // address cannot be such a name.
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback() || self.public)
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        // The colons within an IPv6 address are no port's.
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

    fn status(guard: &Authenticator, pairs: &[(&'static str, &str)]) -> u16 {
        guard
            .check(&headers(pairs))
            .map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    #[test]
    fn names_of_others_are_refused() {
        let guard = Authenticator::new(
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
            assert_eq!(status(&guard, &[("host", host)]), expected, "{host}");
        }
        assert_eq!(status(&guard, &[]), 403);
        assert_eq!(status(&guard, &[("host", "localhost"), ("host", "a")]), 403);
        for (origin, expected) in [
            ("https://app.example", 200),
            ("https://app.example:8443", 403),
            ("http://app.example", 403),
            ("http://localhost:8765", 403),
            ("null", 403),
        ] {
            let pairs = [("host", "localhost"), ("origin", origin)];
            assert_eq!(status(&guard, &pairs), expected, "{origin}");
        }
        let public = Authenticator::new(Vec::new(), Vec::new(), true, None);
        assert_eq!(status(&public, &[("host", "192.0.2.1:8765")]), 200);
        assert_eq!(status(&public, &[("host", "evil.example")]), 403);
    }

    #[test]
    fn the_token_is_asked_for_after_the_names() {
        let token = Secret::new("s3cret");
        let guard = Authenticator::new(Vec::new(), Vec::new(), false, Some(&token));
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
            assert_eq!(status(&guard, &pairs), expected, "{authorization}");
        }
        assert_eq!(status(&guard, &[("host", "localhost")]), 401);
        assert_eq!(status(&guard, &[("host", "evil.example")]), 403);
        assert!(!format!("{guard:?}").contains("s3cret"));
    }
}
