//! The way in, where there are tokens.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use maud::html;
use merganser_proto::auth::Scope;
use merganser_proto::server::Peer;
use serde::Deserialize;
use tracing::info;

use super::{Console, shell};

/// Where to go on.
#[derive(Deserialize)]
pub(super) struct There {
    #[serde(default)]
    then: String,
}

/// The form.
#[derive(Deserialize)]
pub(super) struct Entry {
    token: String,
    #[serde(default)]
    then: String,
}

pub(super) async fn show(Query(There { then }): Query<There>) -> Response {
    page(StatusCode::OK, &then, None)
}

pub(super) async fn enter(
    State(console): State<Arc<Console>>,
    peer: Option<Extension<Peer>>,
    Form(Entry { token, then }): Form<Entry>,
) -> Response {
    let (token, Extension(peer)) = (token.trim().to_owned(), peer.unwrap_or_default());
    match console.doors.check(Some(&token), &peer, Scope::Query) {
        Ok(identity) => {
            info!(name = identity.name(), "signed in to the console");
            ([(SET_COOKIE, console.doors.open_session(token))], Redirect::to(here(&then))).into_response()
        }
        Err(reason) => page(StatusCode::UNAUTHORIZED, &then, Some(&reason)),
    }
}

pub(super) async fn leave(State(console): State<Arc<Console>>, headers: HeaderMap) -> Response {
    ([(SET_COOKIE, console.doors.close_session(&headers))], Redirect::to("/sign-in")).into_response()
}

/// A page of this server, whatever the address says.
fn here(then: &str) -> &str {
    // Browsers leave out tabs and the like, and what is left may be another server's address.
    let is_here = then.starts_with('/') && !then.starts_with("//") && !then.contains('\\');
    if is_here && then.bytes().all(|byte| byte.is_ascii_graphic()) { then } else { "/" }
}

fn page(status: StatusCode, then: &str, refused: Option<&str>) -> Response {
    let body = html! {
        section.narrow {
            h1 { "Sign in" }
            p { "This server answers whoever has a token with the scope " code { "query" } ". The browser does not keep it." }
            @if let Some(reason) = refused { (shell::warning(&html! { p { "That token is not let in: " (shell::shown(reason)) "." } })) }
            form.stack method="post" action="/sign-in" {
                label for="token" { "Token" }
                input #token type="password" name="token" required autocomplete="off" autofocus;
                input type="hidden" name="then" value=(here(then));
                button type="submit" { "Sign in" }
            }
        }
    };
    shell::bare("Sign in", status, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that whoever has signed in goes on at a page of this server and nowhere else.
    #[test]
    fn then() {
        assert_eq!(["/users?id=a%20b", "/"].map(here), ["/users?id=a%20b", "/"]);
        let elsewhere =
            ["", "//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\r\nset-cookie: x", "/\t/evil.example", "/\u{1}"];
        assert_eq!(elsewhere.map(here), ["/"; 8]);
    }
}
