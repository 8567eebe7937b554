//! Styles, script and icon, as they are in the binary.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

pub(super) const STYLE: &str = "/assets/console.css";
pub(super) const SCRIPT: &str = "/assets/console.js";
pub(super) const ICON: &str = "/assets/icon.svg";
/// For everybody: the page that asks for a token needs them.
pub(super) const ALL: [&str; 3] = [STYLE, SCRIPT, ICON];

/// Asked for again with each page that is opened: they may be those of a newer program.
const REVALIDATE: &str = "no-cache";

pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", include_str!("assets/console.css"))
}

pub(super) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", include_str!("assets/console.js"))
}

pub(super) async fn icon() -> Response {
    asset("image/svg+xml", include_str!("assets/icon.svg"))
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, REVALIDATE)], text).into_response()
}
