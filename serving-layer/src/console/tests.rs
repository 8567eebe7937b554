use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_TYPE, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE};
use axum::http::{HeaderValue, Request};
use futures::stream;
use merganser_proto::audit::Audit;
use merganser_proto::auth::AuthOptions;
use tokio::time::Instant;
use tower::ServiceExt;

use super::*;
use crate::tests::fixture::InProcess;

/// `may-look` may look, `may-act` may do both.
const LOOK_SHA256: &str = "09d089f2828f373b0ace84245d4fcd5eecc38d9a1311ece8f2d90823ebeddbeb";
const ACT_SHA256: &str = "b567d8e7884d5ebab02ae2d396fc5e93a399f5568121c49eb1b6db3c0ec7e84e";
const TOKENS: &str = r#"
[[client]]
name = "ann"
token_sha256 = "LOOK"
scopes = ["query"]
[[client]]
name = "root"
token_sha256 = "ACT"
scopes = ["query", "admin", "internal"]
"#;

/// Whoever has one of these tokens is known.
fn locked(folder: &std::path::Path) -> Arc<Authority> {
    let tokens = folder.join("tokens.toml");
    // SHA-256 of both, as `sha256sum` has them.
    let text = TOKENS.replace("LOOK", LOOK_SHA256).replace("ACT", ACT_SHA256);
    std::fs::write(&tokens, text).unwrap();
    let options = AuthOptions { tokens: Some(tokens), ..AuthOptions::default() };
    Authority::open(options, Arc::new(std::time::SystemTime::now), Audit::off()).unwrap()
}

struct Browser {
    router: Router,
    cookie: Option<String>,
    _layer: InProcess,
}

/// An answer: its status, where it leads, and its text.
#[derive(Debug)]
struct Shown {
    status: u16,
    to: String,
    text: String,
    policy: String,
}

impl Browser {
    /// At the console of a layer with `published` versions.
    async fn at(published: &[i64], head: i64, authority: Option<Arc<Authority>>) -> Self {
        let layer = InProcess::new(published, head).await;
        let mut options = ConsoleOptions { grpc_address: "127.0.0.1:7402".to_owned(), authority, ..ConsoleOptions::default() };
        options.config.batch_layer = "/bin/echo".into();
        options.store_url = "data/store".to_owned();
        let (_, reachable) = watch::channel(true);
        let router = layer.layer.console(options, reachable, &CancellationToken::new()).router();
        Self { router, cookie: None, _layer: layer }
    }

    async fn send(&mut self, request: axum::http::request::Builder, body: &str) -> Shown {
        let mut request = request.body(Body::from(body.to_owned())).unwrap();
        request.headers_mut().entry(HOST).or_insert(HeaderValue::from_static("127.0.0.1:7412"));
        if let Some(cookie) = &self.cookie {
            request.headers_mut().insert(COOKIE, HeaderValue::from_str(cookie).unwrap());
        }
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let text = |name| answer.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap().to_owned());
        if let Some(cookie) = text(SET_COOKIE) {
            self.cookie = Some(cookie.split(';').next().unwrap().to_owned());
        }
        let (to, policy) = (text(LOCATION).unwrap_or_default(), text(axum::http::header::CONTENT_SECURITY_POLICY).unwrap_or_default());
        let status = answer.status().as_u16();
        let bytes = to_bytes(answer.into_body(), 16 << 20).await.unwrap();
        Shown { status, to, policy, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    async fn get(&mut self, path: &str) -> Shown {
        self.send(Request::get(path), "").await
    }

    /// As a browser sends a form of one of our pages.
    async fn post(&mut self, path: &str, form: &str) -> Shown {
        let request = Request::post(path).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.send(request.header(ORIGIN, "http://127.0.0.1:7412").header("sec-fetch-site", "same-origin"), form).await
    }
}

/// Proves that every page is there with one version, with none, and with odd ids in the address, that no id is ever a tag, and that each page forbids what it does
/// not need.
#[tokio::test]
async fn every_page() {
    for published in [&[4][..], &[]] {
        let mut browser = Browser::at(published, 8, None).await;
        for path in [
            "/",
            "/views",
            "/views/user_stats",
            "/views/user_stats?k0=user-0",
            "/views/user_stats?k0=user-0&by=bucket",
            "/runs",
            "/live",
            "/refused",
        ] {
            let page = browser.get(path).await;
            assert!(page.status == 200 && page.text.contains("id=\"health\""), "{path}: {page:?}");
            assert!(page.policy.starts_with("default-src 'none'; ") && !page.policy.contains("unsafe"), "{}", page.policy);
            assert!(
                !page.text.contains(" style=") && !page.text.contains(" onclick") && !page.text.contains("://"),
                "{path}: {}",
                page.text
            );
        }
        for id in ["a b", "/?#%", "🦆", &"x".repeat(256), "<script>alert(1)</script>", "שלום\u{202e}abc", "\"'><img src=x>", "\0\x1b[31m"]
        {
            let page = browser.get(&format!("/users?id={}", shell::query_value(id))).await;
            assert_eq!(page.status, 200, "{id:?}: {page:?}");
            assert!(page.text.contains("No events of this user"), "{id:?}: {}", page.text);
            assert!(!page.text.contains("<script>alert") && !page.text.contains("<img"), "{}", page.text);
        }
        assert_eq!(browser.get("/users").await.status, 400);
        assert_eq!(browser.get(&format!("/users?id={}", "x".repeat(257))).await.status, 400);
        for (path, status) in [
            ("/no", 404),
            ("/views/no", 404),
            ("/views/..%2f", 404),
            ("/runs/user_stats/no", 404),
            ("/actions/no", 404),
            ("/assets/console.css", 200),
            ("/assets/console.js", 200),
            ("/assets/icon.svg", 200),
        ] {
            assert_eq!(browser.get(path).await.status, status, "{path}");
        }
    }
}

/// Proves that a user's page says what each half counts, where they meet, and what to type for the same.
#[tokio::test]
async fn a_user() {
    let mut browser = Browser::at(&[4], 8, None).await;
    let page = browser.get("/users?id=user-0").await.text;
    for expected in [
        "event count",
        "batch view",
        "The halves meet at an offset of the log",
        "version 1",
        "grpcurl -plaintext",
        "rect class=\"batch\"",
        "rect class=\"speed\"",
        "boundary <strong>4</strong>",
        "head <strong>8</strong>",
    ] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    // Nobody may act where there are no tokens; the command is shown.
    assert!(page.contains("--key=user-0") && !page.contains("name=\"token\""), "{page}");
    assert_eq!(browser.post("/users/verify", "id=user-0&token=may-act").await.status, 403);
}

/// Proves that a speed layer which is away takes no page away, and that what may be missing is said.
#[tokio::test]
async fn speed_layer_away() {
    let mut browser = Browser::at(&[4], 8, None).await;
    browser._layer.speed().down = true;
    for path in ["/", "/views", "/views/user_stats", "/runs", "/live", "/refused"] {
        assert_eq!(browser.get(path).await.status, 200, "{path}");
    }
    let page = browser.get("/users?id=user-0").await;
    assert!(page.status == 200 && page.text.contains("Events may be missing."), "{page:?}");
    assert!(browser.get("/refused").await.text.contains("does not say"));
}

/// Proves that with tokens nobody looks without one, that a session is opened by one that may look, and that only one that may act does anything.
#[tokio::test]
async fn with_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let mut browser = Browser::at(&[4], 8, Some(locked(folder.path()))).await;
    let away = browser.get("/users?id=a%20b").await;
    assert_eq!((away.status, away.to.as_str()), (303, "/sign-in?then=%2Fusers%3Fid%3Da%2520b"));
    assert_eq!(browser.send(Request::get("/").header("x-live", "1"), "").await.status, 401);
    assert_eq!(browser.post("/users/verify", "id=user-0&token=may-act").await.status, 401);
    assert_eq!(browser.get("/assets/console.css").await.status, 200);
    assert!(browser.get("/sign-in").await.text.contains("name=\"token\""));
    assert_eq!(browser.post("/sign-in", "token=wrong").await.status, 401);
    let entered = browser.post("/sign-in", "token=may-look&then=%2Fusers%3Fid%3Da%2520b").await;
    assert_eq!((entered.status, entered.to.as_str()), (303, "/users?id=a%20b"));
    let page = browser.get("/users?id=user-0").await;
    assert!(
        page.status == 200 && page.text.contains("name=\"token\"") && page.text.contains("authorization: Bearer ${MERGANSER_TOKEN}"),
        "{page:?}"
    );

    let refused = browser.post("/users/verify", "id=user-0&token=may-look").await;
    assert!(
        refused.status == 403 && refused.text.contains("it takes the scope admin") && !refused.text.contains("may-look"),
        "{refused:?}"
    );
    let begun = browser.post("/users/verify", "id=user-0&token=may-act").await;
    assert!(begun.status == 303 && begun.to.starts_with("/actions/"), "{begun:?}");
    let action = loop {
        let page = browser.get(&begun.to).await;
        if !page.text.contains("It goes on") {
            break page;
        }
        tokio::task::yield_now().await;
    };
    assert!(action.text.contains("It went well.") && action.text.contains("verify --recompute --live --key=user-0"), "{action:?}");
    let confirm = browser.get("/views/user_stats/rollback?to=1").await;
    assert!(confirm.status == 200 && confirm.text.contains("rollback 1"), "{confirm:?}");
    assert_eq!(browser.get("/views/user_stats/rollback?to=9").await.status, 404);
    assert_eq!(browser.post("/views/user_stats/rollback", "to=9&token=may-act").await.status, 404);

    // Events as they came are for more than asking.
    let refused = browser.get("/refused").await;
    assert!(refused.status == 403 && refused.text.contains("internal"), "{refused:?}");
    browser.post("/sign-in", "token=may-act").await;
    assert_eq!(browser.get("/refused").await.status, 200);

    assert_eq!(browser.post("/sign-out", "").await.status, 303);
    assert_eq!(browser.get("/").await.status, 303);
}

/// Proves that forms which do not end take no page's place, and are given up after a while.
#[tokio::test(start_paused = true)]
async fn forms_without_end() {
    let mut browser = Browser::at(&[4], 8, None).await;
    let forms: Vec<_> = (0..100)
        .map(|_| {
            let body = Body::from_stream(stream::pending::<Result<&'static [u8], std::io::Error>>());
            let request = Request::post("/sign-in").header(HOST, "127.0.0.1:7412").header(ORIGIN, "http://127.0.0.1:7412");
            tokio::spawn(browser.router.clone().oneshot(request.body(body).unwrap()))
        })
        .collect();
    tokio::task::yield_now().await;
    let begun = Instant::now();
    assert_eq!(browser.get("/views").await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(1), "it waited for the forms");
    for form in forms {
        assert_eq!(form.await.unwrap().unwrap().status().as_u16(), 408);
    }
}

/// Proves that a page of another site gets nothing and does nothing: not under its own name for this address, and not by a form.
#[tokio::test]
async fn other_sites() {
    let folder = tempfile::tempdir().unwrap();
    let mut browser = Browser::at(&[4], 8, Some(locked(folder.path()))).await;
    assert_eq!(browser.send(Request::get("/").header(HOST, "evil.example:7412"), "").await.status, 421);
    browser.post("/sign-in", "token=may-look").await;
    let form = |origin: &'static str| {
        Request::post("/users/verify").header(CONTENT_TYPE, "application/x-www-form-urlencoded").header(ORIGIN, origin)
    };
    assert_eq!(browser.send(form("http://evil.example"), "id=user-0&token=may-act").await.status, 403);
    assert_eq!(browser.send(Request::post("/users/verify"), "id=user-0&token=may-act").await.status, 403);
    assert_eq!(browser.send(Request::delete("/"), "").await.status, 403);
    let large = format!("id=user-0&token={}", "x".repeat(32 << 10));
    assert_eq!(browser.post("/users/verify", &large).await.status, 413);
}
