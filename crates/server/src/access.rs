//! Who may ask what: the defence against pages in a browser that reach for a server on the reader's machine.
//!
//! - `Host` must be an IP address, `localhost` or a name that the project allows. A page whose own name was made to
//!   point here (DNS rebinding) sends that name.
//! - `Origin`, which browsers send with requests of other pages, must be this server or an allowed origin.
//! - Orders need the token of [`crate::Attachment`], which only who can read the project's folder knows.

use std::net::IpAddr;

use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode, Uri};

/// Names and origins beside those that are always allowed.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Host names under which the server is reached, without port: `weir.internal`.
    pub hosts: Vec<String>,
    /// Origins of pages that may ask: `https://reports.example.com`.
    pub origins: Vec<String>,
}

impl Access {
    /// Whether a request with these headers may be answered; otherwise the status and a sentence.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
        let text = |value: &axum::http::HeaderValue| value.to_str().map(str::to_owned).unwrap_or_default();
        let host = uri.authority().map(|authority| authority.as_str().to_owned());
        let Some(host) = host.or_else(|| headers.get(HOST).map(text)) else {
            return Err((StatusCode::BAD_REQUEST, "the request has no Host header".into()));
        };
        if !self.allows_host(&host) {
            let message = format!("the host `{host}` is not one of this server's; see `hosts` in [server]");
            return Err((StatusCode::FORBIDDEN, message));
        }
        match headers.get(ORIGIN).map(text) {
            Some(origin) if !self.allows_origin(&origin, &host) => {
                let message = format!("pages of `{origin}` may not ask here; see `origins` in [server]");
                Err((StatusCode::FORBIDDEN, message))
            }
            _ => Ok(()),
        }
    }

    fn allows_host(&self, host: &str) -> bool {
        let name = name_of(host);
        name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    }

    fn allows_origin(&self, origin: &str, host: &str) -> bool {
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        own.is_some_and(|own| own.eq_ignore_ascii_case(host))
            || self.origins.iter().any(|allowed| allowed.trim_end_matches('/').eq_ignore_ascii_case(origin))
    }
}

/// A `Host` without its port and brackets.
fn name_of(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

/// Whether the request carries `token`. Takes the same time wherever they differ.
pub(crate) fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let Some(given) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else { return false };
    let Some(given) = given.strip_prefix("Bearer ") else { return false };
    given.len() == token.len()
        && given.bytes().zip(token.bytes()).fold(0, |difference, (one, other)| difference | (one ^ other)) == 0
}
