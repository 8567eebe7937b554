//! What all pages have: the list of pages, the field that looks a user up, the sentence on health, and the pieces that they are made of.
//!
//! An element with `data-live` is taken over from the next rendering of the page by the script. Forms are never in one.

use std::fmt::Write;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::health::{self, Level};
use super::{Console, assets};

/// Bytes of an id that a title shows.
const MAX_TITLE_CHARS: usize = 60;

/// The pages of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Home,
    Views,
    Runs,
    Live,
    Refused,
    /// A page that is in no list.
    None,
}

const TABS: [(Tab, &str, &str); 5] = [
    (Tab::Home, "/", "Look up"),
    (Tab::Views, "/views", "Views"),
    (Tab::Runs, "/runs", "Runs"),
    (Tab::Live, "/live", "Live"),
    (Tab::Refused, "/refused", "Refused"),
];

/// How soon a page looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Never,
    /// After two seconds.
    Soon,
    /// After five.
    Later,
}

/// A page in the making.
pub(super) struct Page {
    title: String,
    tab: Tab,
    body: Markup,
    again: Again,
    status: StatusCode,
    looked_for: String,
}

impl Page {
    pub(super) fn new(title: &str, tab: Tab, body: Markup) -> Self {
        let title = title.chars().take(MAX_TITLE_CHARS).collect();
        Self { title, tab, body, again: Again::Never, status: StatusCode::OK, looked_for: String::new() }
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(super) fn looking(self, again: Again) -> Self {
        Self { again, ..self }
    }

    /// Of a user, whose id stays in the field.
    pub(super) fn about(self, user_id: &str) -> Self {
        Self { looked_for: user_id.to_owned(), ..self }
    }

    pub(super) async fn show(self, console: &Console) -> Response {
        let mark = match health::of(console).level {
            Level::Well => "",
            Level::Look => "! ",
            Level::Bad => "✕ ",
        };
        let title = format!("{mark}{} · Merganser", self.title);
        let every = match self.again {
            Again::Never => None,
            Again::Soon => Some("2000"),
            Again::Later => Some("5000"),
        };
        let has_keys = console.doors.are_locked();
        let content = html! {
            header.top {
                div.bar {
                    a.brand href="/" { (brand()) span { "Merganser" } }
                    nav aria-label="Pages" {
                        @for (tab, path, name) in TABS {
                            a href=(path) aria-current=[(tab == self.tab).then_some("page")] { (name) }
                        }
                        @if has_keys {
                            form.out method="post" action="/sign-out" { button.plain type="submit" { "Sign out" } }
                        }
                    }
                    @if self.tab != Tab::Home { (find(&self.looked_for, false)) }
                }
                (sentence(console))
            }
            main #main tabindex="-1" { (self.body) }
        };
        let page = document(&title, every, &content);
        (self.status, page).into_response()
    }
}

/// A page with nothing of the layer on it, for whoever has not signed in.
pub(super) fn bare(title: &str, status: StatusCode, body: &Markup) -> Response {
    let content = html! {
        header.top { div.bar { a.brand href="/" { (brand()) span { "Merganser" } } } }
        main #main tabindex="-1" { (body) }
    };
    (status, document(&format!("{title} · Merganser"), None, &content)).into_response()
}

fn document(title: &str, every: Option<&str>, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" href=(assets::ICON) type="image/svg+xml";
                link rel="stylesheet" href=(assets::STYLE);
                script src=(assets::SCRIPT) defer {}
            }
            body data-every=[every] {
                a.skip href="#main" { "Skip to the page" }
                (content)
                p.lost role="status" #lost {}
            }
        }
    }
}

/// Two halves and the seam between them.
fn brand() -> Markup {
    html! {
        svg.mark viewBox="0 0 24 24" width="22" height="22" aria-hidden="true" {
            path.batch d="M3 19h8V8.5a5.5 5.5 0 0 0-8 4.9z" {}
            path.speed d="M13 19h8l-3.4-3.9V5.8a4.6 4.6 0 0 0-4.6 2.7z" {}
        }
    }
}

/// How it is, in one sentence.
fn sentence(console: &Console) -> Markup {
    let health = health::of(console);
    let (class, sign) = match health.level {
        Level::Well => ("well", "●"),
        Level::Look => ("look", "▲"),
        Level::Bad => ("bad", "✕"),
    };
    html! {
        p.health.(class) #health data-live { span.sign aria-hidden="true" { (sign) } strong { (health.verdict) "." } " " span { (health.sentence) } }
    }
}

/// The field that looks a user up.
pub(super) fn find(user_id: &str, large: bool) -> Markup {
    let id = if large { "find-large" } else { "find" };
    html! {
        form.find.large[large] role="search" method="get" action="/users" {
            label for=(id) { "User id" }
            input id=(id) type="search" name="id" value=(user_id) required maxlength="256" autocomplete="off" autocapitalize="none" spellcheck="false" dir="auto" placeholder="user id" autofocus[large];
            button type="submit" { "Look up" }
        }
    }
}

/// A line that a person copies.
pub(super) fn copyable(id: &str, text: &str) -> Markup {
    html! {
        div.copy {
            pre id=(id) tabindex="0" dir="ltr" { code { (text) } }
            button.small type="button" data-copy=(id) hidden { "Copy" }
        }
    }
}

/// Text that somebody else wrote: it may run either way, and ends where it ends.
pub(super) fn foreign(text: &str) -> Markup {
    html! { bdi.id { (shown(text)) } }
}

/// The text with a picture for each control, so that it is seen and does nothing.
pub(super) fn shown(text: &str) -> String {
    let picture = |c: char| match c {
        '\0'..='\x1f' => char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}'),
        '\x7f' => '\u{2421}',
        '\u{80}'..='\u{9f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    };
    text.chars().map(picture).collect()
}

/// A name and what it is at.
pub(super) fn figure(name: &str, value: &str, more: &Markup) -> Markup {
    html! { div.figure { dt { (name) } dd { span.value { (value) } @if !more.0.is_empty() { span.more { (more) } } } } }
}

/// Nothing beside a figure.
pub(super) fn nothing() -> Markup {
    PreEscaped(String::new())
}

/// A box that says what is not as it should be.
pub(super) fn warning(body: &Markup) -> Markup {
    html! { div.warning role="note" { span.sign aria-hidden="true" { "▲" } div { (body) } } }
}

/// A value in the query of an address.
pub(super) fn query_value(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte as char),
            _ => write!(escaped, "%{byte:02X}").expect("a string takes it"),
        }
    }
    escaped
}

/// Says what went wrong, with the page around it.
pub(super) async fn failed(console: &Console, status: StatusCode, what: &str, why: &str) -> Response {
    let body = html! {
        h1 { (what) }
        (warning(&html! { p { (shown(why)) } }))
    };
    Page::new(what, Tab::None, body).with_status(status).show(console).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that what somebody wrote is text wherever it stands: it opens no tag, ends no attribute, and turns no text around it.
    #[test]
    fn foreign_text() {
        let evil = "<script>alert(1)</script>\"'&\u{202e}\x1b[31m\0";
        let markup = html! { (foreign(evil)) (find(evil, false)) (copyable("c", evil)) }.into_string();
        assert!(!markup.contains("<script>") && markup.contains("&lt;script&gt;"), "{markup}");
        assert!(markup.contains("value=\"&lt;script&gt;alert(1)&lt;/script&gt;&quot;'&amp;"), "{markup}");
        let text = foreign(evil).into_string();
        assert!(!text.contains(['\u{202e}', '\x1b', '\0']) && text.contains("␛[31m␀"), "{text}");
        assert_eq!(query_value("a b/?#%&=é<"), "a%20b%2F%3F%23%25%26%3D%C3%A9%3C");
    }
}
