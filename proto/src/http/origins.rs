//! Which pages may call from a browser.
//!
//! A browser says in `Origin` whose page a script belongs to. Pages of this server may call it, and those that the settings name. A name
//! that an attacker owns can be made to lead here after the page was loaded (DNS rebinding), and then is the host of both; so a page of
//! this server is taken for one by address or as `localhost` only, and every other name has to be among the settings, this server's own
//! too. Programs that are no browsers send no `Origin`, and are not judged by one.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::{Authority, Uri};
use axum::http::{HeaderMap, HeaderValue};

/// Whose pages may call: those of this server, and some more.
#[derive(Clone, Debug, Default)]
pub struct Origins(Arc<[String]>);

/// What a request's `Origin` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nothing: it is no script of a page.
    Program,
    /// A page of this server.
    OwnPage,
    /// A page of another origin, which may call.
    OtherPage(HeaderValue),
}

impl Origins {
    /// The origins of `list`, with spaces between them, such as `https://stats.example.com`, beside this server's own.
    #[must_use]
    pub fn of(list: &str) -> Self {
        Self(list.split_whitespace().map(str::to_owned).collect())
    }

    /// Who calls.
    ///
    /// # Errors
    /// What to tell the page that may not.
    pub fn judge(&self, headers: &HeaderMap) -> Result<Caller, &'static str> {
        let Some(origin) = headers.get(ORIGIN) else { return Ok(Caller::Program) };
        let text = origin.to_str().unwrap_or_default();
        if self.0.iter().any(|allowed| allowed == text) {
            return Ok(Caller::OtherPage(origin.clone()));
        }
        match is_own(text, headers.get(HOST)) {
            true => Ok(Caller::OwnPage),
            false => Err("pages of this origin may not call; the setting serving_layer.web_origins names those that may\n"),
        }
    }
}

fn is_own(origin: &str, host: Option<&HeaderValue>) -> bool {
    let Some(host) = host.and_then(|host| Authority::try_from(host.as_bytes()).ok()) else { return false };
    let authority = origin.parse::<Uri>().ok().and_then(|origin| origin.authority().cloned());
    authority.is_some_and(|authority| authority == host && cannot_be_rebound(host.host()))
}

/// Whether nobody else can make this name lead here.
fn cannot_be_rebound(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Proves that pages of this server and of the named origins may call, and no others: not by a similar name, another port, a name
    /// that leads here, or no name at all.
    #[test]
    fn pages() {
        let origins = Origins::of("https://stats.example.com  http://10.0.0.7:3000");
        let judged = |origin: Option<&str>, host: Option<&str>| {
            let mut headers = HeaderMap::new();
            origin.map(|origin| headers.insert(ORIGIN, origin.parse().unwrap()));
            host.map(|host| headers.insert(HOST, host.parse().unwrap()));
            origins.judge(&headers).ok()
        };
        let own = "127.0.0.1:7412";
        assert_eq!(judged(None, Some("anything")), Some(Caller::Program));
        for host in [own, "localhost:7412", "LOCALHOST:7412", "[::1]:7412", "192.168.0.9"] {
            assert_eq!(judged(Some(&format!("http://{host}")), Some(host)), Some(Caller::OwnPage), "{host}");
        }
        for allowed in ["https://stats.example.com", "http://10.0.0.7:3000"] {
            assert_eq!(judged(Some(allowed), Some(own)), Some(Caller::OtherPage(allowed.parse().unwrap())));
        }
        for (origin, host) in [
            ("http://127.0.0.1:7413", own),
            ("http://localhost:7412", own),
            ("null", own),
            ("", own),
            ("http://stats.example.com", own),
            ("https://stats.example.com.evil.com", own),
            ("https://stats.example.com:444", own),
            ("http://rebound.evil.com:7412", "rebound.evil.com:7412"),
            ("http://127.0.0.1.evil.com:7412", "127.0.0.1.evil.com:7412"),
            ("http://evil.com@127.0.0.1:7412", own),
        ] {
            assert_eq!(judged(Some(origin), Some(host)), None, "{origin}");
        }
        assert_eq!(judged(Some("http://127.0.0.1:7412"), None), None, "no host");
    }
}
