//! The console: pages for people, on the HTTP address of the serving layer.
//!
//! Pages are rendered here, whole, from what the layer knows, what the store says and what the speed layer tells; a small script asks for
//! the same page again and takes over what has changed in it, so that without the script every page is still there. Styles, script and
//! icon are in the binary, charts are SVG, and nothing is asked of any other host: the headers forbid it (`door`).
//!
//! *Bounds.* So many pages at once as there are places in `door`, each within a time; lists, charts and texts have an end and say so.
//! The speed layer is asked at a pace of its own, however many look (`pulse`).
//!
//! The serving layer never writes, and neither do its pages. What changes something, a rollback, or makes the speed layer cut, a
//! recount, is done by `batch-layer` as a process of its own (`action`), and only for whoever brings a token that may.

/// Doing something, by another program.
mod action;
/// Styles, script, icon.
mod assets;
/// A cell of an answer.
mod cell;
/// Bars and where the halves meet.
mod chart;
/// Lines to copy.
mod command;
/// Who may come in, and from where.
mod door;
/// How it is, in one sentence.
mod health;
/// The first page.
mod home;
/// What comes in, and what is asked.
mod live;
/// One user.
mod lookup;
/// What there was to hear of the speed layer.
mod pulse;
/// Rows that were refused.
mod refusals;
/// Rows of a view by key.
mod rows;
/// Batch runs.
mod runs;
/// What all pages have.
mod shell;
/// The way in.
mod signin;
/// The versions of a view.
mod versions;
/// The views.
mod views;
/// Numbers and moments.
mod words;

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, middleware};
use maud::html;
use merganser_proto::auth::Authority;
use merganser_proto::server::CallCounts;
use storage::config::ConsoleConfig;
use storage::machine::now_us;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::service::Service;
use crate::speed::SpeedClient;
use action::Actions;
use command::Callers;
use door::Doors;
use pulse::Pulse;
use shell::{Page, Tab};

/// What the console needs to know of the process that it is in.
#[derive(Clone, Default)]
pub struct ConsoleOptions {
    /// `[console]`.
    pub config: ConsoleConfig,
    /// Where its store is.
    pub store_url: String,
    /// Where its speed layer is.
    pub speed_layer: String,
    /// Where its gRPC server listens.
    pub grpc_address: String,
    /// Whether its servers speak TLS.
    pub has_tls: bool,
    /// Whose tokens may do what; without one everybody may look and nobody may act.
    pub authority: Option<Arc<Authority>>,
}

/// What pages are made of.
pub(crate) struct Console {
    service: Service,
    speed: SpeedClient,
    speed_reachable: watch::Receiver<bool>,
    pulse: Pulse,
    actions: Actions,
    doors: Doors,
    callers: Callers,
    runs: runs::Watched,
    versions: versions::Known,
}

impl Console {
    /// The console of a layer that has started. It listens to the speed layer until `shutdown`.
    pub(crate) fn new(
        options: ConsoleOptions,
        service: Service,
        speed: SpeedClient,
        calls: CallCounts,
        speed_reachable: watch::Receiver<bool>,
        shutdown: &CancellationToken,
    ) -> Self {
        let authority = options.authority.clone().unwrap_or_else(Authority::off);
        let callers = Callers { grpc_address: options.grpc_address.clone(), has_tls: options.has_tls, has_tokens: authority.is_on() };
        Self {
            pulse: Pulse::start(speed.clone(), calls, shutdown.child_token()),
            actions: Actions::of(&options, Arc::clone(&service.machine), shutdown.child_token()),
            doors: Doors::new(options.config.hosts, authority, options.has_tls, Arc::clone(&service.machine)),
            service,
            speed,
            speed_reachable,
            callers,
            runs: runs::Watched::default(),
            versions: versions::Known::default(),
        }
    }

    /// Its pages.
    pub(crate) fn router(self) -> Router {
        let console = Arc::new(self);
        Router::new()
            .route("/", get(home::show))
            .route("/users", get(lookup::show))
            .route("/users/verify", post(lookup::verify))
            .route("/views", get(views::list))
            .route("/views/{view}", get(views::show))
            .route("/views/{view}/rollback", get(versions::confirm).post(versions::rollback))
            .route("/runs", get(runs::list))
            .route("/runs/{view}/{run}", get(runs::show))
            .route("/live", get(live::show))
            .route("/refused", get(refusals::show))
            .route("/actions/{id}", get(action::show))
            .route("/sign-in", get(signin::show).post(signin::enter))
            .route("/sign-out", post(signin::leave))
            .route(assets::STYLE, get(assets::style))
            .route(assets::SCRIPT, get(assets::script))
            .route(assets::ICON, get(assets::icon))
            .fallback(no_such_page)
            .layer(middleware::from_fn_with_state(Arc::clone(&console), door::guard))
            .with_state(console)
    }

    /// Microseconds since 1970, by the machine's clock.
    fn now_us(&self) -> i64 {
        now_us(&*self.service.machine)
    }
}

async fn no_such_page(State(console): State<Arc<Console>>) -> Response {
    let body = html! {
        h1 { "There is no such page" }
        p { "The pages are those in the list above; " a href="/" { "the first one" } " looks a user up." }
    };
    Page::new("No such page", Tab::None, body).with_status(StatusCode::NOT_FOUND).show(&console).await
}

#[cfg(test)]
mod tests;
