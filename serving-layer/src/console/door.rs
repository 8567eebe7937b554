//! Who may come in, from where, and how many at a time. Everything that a page is asked for goes through [`guard`].
//!
//! - **Host.** A browser is let in by `localhost`, an IP address, or a name of `console.hosts`: a stranger's page that points its own name at
//!   this address ("DNS rebinding") asks under that name, and gets nothing.
//! - **Origin.** What changes something is a POST from one of these pages: a browser says where a form comes from, in `Sec-Fetch-Site`
//!   or `Origin`, and what comes from elsewhere, or does not say, is refused.
//! - **Tokens.** With `[auth]`, pages are for whoever has signed in with a token that may ask, those with raw events for one that is `internal` too, and an action takes one that may administer,
//!   typed for that action. Tokens travel in the bodies of forms, never in an address. The browser keeps a random number in a cookie
//!   that scripts cannot read; the token it stands for is in this process alone, and is asked about again at each page, so that one that
//!   expires or is taken back ends its sessions. So does [`SESSION_TIME`].
//! - **Headers.** Pages may load and send nothing but to and from here, run no script but ours, and be shown in no other page.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, COOKIE, HOST, HeaderName, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use merganser_proto::audit::Audit;
use merganser_proto::auth::{Authority, Identity, Scope};
use merganser_proto::server::Peer;
use storage::machine::Machine;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::{Console, assets, refusals, shell};

/// Pages that are made at once.
const PLACES: usize = 8;
/// What a page waits for its place.
const PLACE_PATIENCE: Duration = Duration::from_secs(2);
/// A page that takes longer is given up.
const PAGE_TIME: Duration = Duration::from_secs(10);
/// Bytes of a form.
const MAX_FORM_BYTES: usize = 16 << 10;
/// A form is there by then. Until then it has no place, so that whoever never ends it keeps nobody from theirs.
const FORM_TIME: Duration = Duration::from_secs(5);
/// Sessions at once; the one that was opened longest ago makes room.
const MAX_SESSIONS: usize = 256;
/// A session ends so long after it was opened.
const SESSION_TIME: Duration = Duration::from_secs(12 * 3600);
/// Pages that show events as they came. Over gRPC the speed layer gives them for this scope too.
const RAW_EVENTS: [&str; 1] = ["/refused"];
const SESSION_COOKIE: &str = "merganser_session";

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";
const HEADERS: [(&str, &str); 5] = [
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// See the module.
pub(super) struct Doors {
    hosts: Vec<String>,
    authority: Arc<Authority>,
    has_tls: bool,
    machine: Arc<dyn Machine>,
    places: Semaphore,
    sessions: Mutex<BTreeMap<String, Session>>,
}

struct Session {
    token: String,
    since: Instant,
}

impl Doors {
    pub(super) fn new(hosts: Vec<String>, authority: Arc<Authority>, has_tls: bool, machine: Arc<dyn Machine>) -> Self {
        Self { hosts, authority, has_tls, machine, places: Semaphore::new(PLACES), sessions: Mutex::default() }
    }

    /// Whether anybody is asked for a token.
    pub(super) fn are_locked(&self) -> bool {
        self.authority.is_on()
    }

    /// Where acts are written down.
    pub(super) fn audit(&self) -> Audit {
        self.authority.audit().clone()
    }

    /// Whoever has the token, if it is for `scope`; without one whoever the connection's certificate is for.
    ///
    /// # Errors
    /// Why not, for people, in words that hold nothing of the token.
    pub(super) fn check(&self, token: Option<&str>, peer: &Peer, scope: Scope) -> Result<Identity, String> {
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut bearer =
                HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "it has characters that no token has".to_owned())?;
            bearer.set_sensitive(true);
            headers.insert(AUTHORIZATION, bearer);
        }
        self.authority.allow(&headers, peer, scope).map_err(|refusal| refusal.to_string())
    }

    /// Opens a session for whoever has the token; the answer is its cookie.
    pub(super) fn open_session(&self, token: String) -> String {
        let id = format!("{:032x}", self.machine.random());
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.since.elapsed() < SESSION_TIME);
        while sessions.len() >= MAX_SESSIONS {
            let oldest = sessions.iter().min_by_key(|(_, session)| session.since).map(|(id, _)| id.clone());
            sessions.remove(&oldest.expect("there are many"));
        }
        sessions.insert(id.clone(), Session { token, since: Instant::now() });
        self.cookie(&id, SESSION_TIME)
    }

    /// Ends the session of a request; the answer is the cookie that says so.
    pub(super) fn close_session(&self, headers: &HeaderMap) -> String {
        if let Some(id) = session_id(headers) {
            self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        }
        self.cookie("", Duration::ZERO)
    }

    fn cookie(&self, id: &str, time: Duration) -> String {
        let secure = if self.has_tls { "; Secure" } else { "" };
        format!("{SESSION_COOKIE}={id}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}", time.as_secs())
    }

    /// Whether a request is from somebody who has `scope`: by the token of its session, or by its connection's certificate.
    fn may(&self, scope: Scope, headers: &HeaderMap, peer: &Peer) -> bool {
        let token = session_id(headers).and_then(|id| {
            let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.get(id).filter(|session| session.since.elapsed() < SESSION_TIME).map(|session| session.token.clone())
        });
        (token.is_some() || peer.certificate.is_some()) && self.check(token.as_deref(), peer, scope).is_ok()
    }

    fn knows_host(&self, host: &str) -> bool {
        let name = without_port(host);
        let is_address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>().is_ok();
        is_address || name.eq_ignore_ascii_case("localhost") || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

fn session_id(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    let mut named = cookies.filter_map(|cookie| cookie.trim().split_once('=')).filter(|(name, _)| *name == SESSION_COOKIE);
    named.next().map(|(_, id)| id)
}

/// `host:port` without the port, an IPv6 address with its brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) => name,
        _ => host,
    }
}

/// Whether a POST comes from one of our own pages.
fn is_ours(headers: &HeaderMap, host: &str) -> bool {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let from_here = |origin: &str| origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host));
    match (text(HeaderName::from_static("sec-fetch-site")), text(ORIGIN)) {
        (Some(site), None) => site == "same-origin",
        (None | Some("same-origin"), Some(origin)) => from_here(origin),
        // From elsewhere, or nobody says from where.
        (Some(_), Some(_)) | (None, None) => false,
    }
}

/// Lets a request in, or says why not; see the module.
pub(super) async fn guard(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let mut response = admitted(&console, request, next).await;
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn admitted(console: &Console, request: Request, next: Next) -> Response {
    let doors = &console.doors;
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    if !doors.knows_host(&host) {
        let words = "this server does not know the name that it was asked by; ask by its address, or add the name to console.hosts\n";
        return (StatusCode::MISDIRECTED_REQUEST, words).into_response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) && !is_ours(request.headers(), &host) {
        return (StatusCode::FORBIDDEN, "only a form on one of this server's own pages may ask for that\n").into_response();
    }
    let path = request.uri().path();
    if assets::ALL.contains(&path) {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    if doors.are_locked() && path != "/sign-in" {
        if !doors.may(Scope::Query, request.headers(), &peer) {
            return to_sign_in(request.method(), request.uri(), request.headers());
        }
        if RAW_EVENTS.contains(&path) && !doors.may(Scope::Internal, request.headers(), &peer) {
            return refusals::locked(console).await;
        }
    }
    let request = match whole(request).await {
        Ok(request) => request,
        Err(refusal) => return refusal.into_response(),
    };
    let Ok(Ok(_place)) = timeout(PLACE_PATIENCE, doors.places.acquire()).await else {
        return (StatusCode::SERVICE_UNAVAILABLE, "many pages are being made just now; try again\n").into_response();
    };
    match timeout(PAGE_TIME, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the page took too long to make; the store or the speed layer may be slow\n").into_response()
        }
    }
}

/// The request with all of its form.
async fn whole(request: Request) -> Result<Request, (StatusCode, &'static str)> {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(request);
    }
    let (head, body) = request.into_parts();
    match timeout(FORM_TIME, to_bytes(body, MAX_FORM_BYTES)).await {
        Ok(Ok(form)) => Ok(Request::from_parts(head, Body::from(form))),
        Ok(Err(_)) => Err((StatusCode::PAYLOAD_TOO_LARGE, "no form of these pages is that large\n")),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the form did not arrive in time\n")),
    }
}

/// A page that looks again is told that it is no longer let in; whoever asks for a page may sign in and go on there.
fn to_sign_in(method: &Method, uri: &Uri, headers: &HeaderMap) -> Response {
    if *method != Method::GET || headers.contains_key("x-live") {
        return (StatusCode::UNAUTHORIZED, "sign in first\n").into_response();
    }
    let there = uri.path_and_query().map_or("/", |there| there.as_str());
    Redirect::to(&format!("/sign-in?then={}", shell::query_value(there))).into_response()
}

#[cfg(test)]
mod tests {
    use storage::machine::RealMachine;

    use super::*;

    fn doors(hosts: &[&str]) -> Doors {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Doors::new(hosts, Authority::off(), false, Arc::new(RealMachine))
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    /// Proves by which names a browser is let in, and that no name which merely looks like one of them is.
    #[test]
    fn hosts() {
        let doors = doors(&["console.example.com"]);
        for known in [
            "localhost",
            "LOCALHOST:7412",
            "127.0.0.1:7412",
            "[::1]:7412",
            "[::1]",
            "10.0.0.7:80",
            "Console.Example.com",
            "console.example.com:443",
        ] {
            assert!(doors.knows_host(known), "{known}");
        }
        for unknown in [
            "",
            "evil.example",
            "localhost.evil.example:7412",
            "127.0.0.1.evil.example",
            "console.example.com.evil.example",
            "x:y",
            "a:7412:7412",
        ] {
            assert!(!doors.knows_host(unknown), "{unknown}");
        }
    }

    /// Proves that a form counts as ours only if the browser says that it comes from the very host that was asked.
    #[test]
    fn origins() {
        let ours = |pairs| is_ours(&headers(pairs), "127.0.0.1:7412");
        assert!(ours(&[("sec-fetch-site", "same-origin")]));
        assert!(ours(&[("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:7412")]));
        assert!(ours(&[("origin", "http://127.0.0.1:7412")]));
        assert!(!ours(&[]));
        assert!(!ours(&[("sec-fetch-site", "cross-site")]));
        assert!(!ours(&[("sec-fetch-site", "same-site"), ("origin", "http://127.0.0.1:7412")]));
        assert!(!ours(&[("sec-fetch-site", "none")]));
        assert!(!ours(&[("origin", "http://127.0.0.1:9999")]));
        assert!(!ours(&[("origin", "null")]));
        assert!(!ours(&[("sec-fetch-site", "same-origin"), ("origin", "http://evil.example")]));
    }

    /// Proves that a session is known by its cookie and no other, ends with its time and when it is left, and that there are so many at most.
    #[tokio::test(start_paused = true)]
    async fn sessions() {
        let doors = doors(&[]);
        let with = |cookie: &str| {
            let pair = cookie.split(';').next().unwrap().to_owned();
            HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(&format!("other=1; {pair}")).unwrap())])
        };
        // Nobody is asked here who they are, so that whoever has a session may look.
        let knows = |headers: &HeaderMap| doors.may(Scope::Query, headers, &Peer::default());
        let cookie = doors.open_session("a token".to_owned());
        assert!(cookie.contains("; HttpOnly; SameSite=Strict; ") && !cookie.contains("a token"), "{cookie}");
        assert!(knows(&with(&cookie)) && !knows(&HeaderMap::new()) && !knows(&with("merganser_session=0000")));
        tokio::time::advance(SESSION_TIME).await;
        assert!(!knows(&with(&cookie)));

        let cookie = doors.open_session("another".to_owned());
        assert!(doors.close_session(&with(&cookie)).contains("Max-Age=0"));
        assert!(!knows(&with(&cookie)));
        let first = doors.open_session("first".to_owned());
        tokio::time::advance(Duration::from_secs(1)).await;
        (0..MAX_SESSIONS).for_each(|n| drop(doors.open_session(n.to_string())));
        assert!(!knows(&with(&first)));
        assert_eq!(doors.sessions.lock().unwrap().len(), MAX_SESSIONS);
    }
}
