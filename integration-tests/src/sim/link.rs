//! What carries a call from one process to another: nothing, some of the time.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use tokio::time::{Instant, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::{Service, ServiceExt};

use super::faults::{Fault, Weather};
use super::process::Process;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The services of a server, while it is up.
#[derive(Clone, Debug, Default)]
pub(super) struct Address(Arc<Mutex<Option<(Routes, Process)>>>);

impl Address {
    pub(super) fn serve(&self, routes: Routes, process: &Process) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((routes, process.clone()));
    }

    /// Kills the server, if it is up.
    pub(super) fn kill(&self) {
        if let Some((_, process)) = self.up() {
            process.kill();
        }
    }

    pub(super) fn gone(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn up(&self) -> Option<(Routes, Process)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A link to a server. Clones are the same link.
#[derive(Clone, Debug)]
pub(super) struct Link {
    to: Address,
    weather: Weather,
    chance: super::chance::Chance,
    /// How many cuts there were, and when the last ends.
    cuts: Arc<Mutex<(u64, Option<Instant>)>>,
}

impl Link {
    pub(super) fn new(to: &Address, weather: &Weather, chance: &super::chance::Chance) -> Self {
        Self { to: to.clone(), weather: weather.clone(), chance: chance.clone(), cuts: Arc::default() }
    }

    /// Lets nothing through for a while.
    pub(super) fn cut(&self, pause: Duration) {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        *cuts = (cuts.0 + 1, Some(Instant::now() + pause));
    }

    /// The number of the cut there is: the same number twice is the same cut all the while.
    pub(super) fn cut_there_is(&self) -> Option<u64> {
        let (number, until) = *self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        (!self.weather.is_calm() && until.is_some_and(|until| Instant::now() < until)).then_some(number)
    }

    async fn carry(self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        sleep(self.chance.micros(500)).await;
        if self.weather.strikes(Fault::CallSlow) {
            sleep(self.chance.micros(6_000_000)).await;
        }
        if self.cut_there_is().is_some() || self.weather.strikes(Fault::CallLost) {
            return Err(Status::unavailable("the call did not arrive").into());
        }
        let Some((routes, process)) = self.to.up() else {
            return Err(Status::unavailable("connection refused").into());
        };
        let answer = tokio::select! {
            biased;
            () = process.death() => return Err(Status::unavailable("connection reset").into()),
            answer = routes.oneshot(request) => answer,
        };
        // What a dead process says reaches nobody.
        if process.is_dead() {
            return Err(Status::unavailable("connection reset").into());
        }
        sleep(self.chance.micros(500)).await;
        if self.cut_there_is().is_some() || self.weather.strikes(Fault::ReplyLost) {
            return Err(Status::unavailable("the reply did not arrive").into());
        }
        Ok(answer?)
    }
}

impl Service<Request<Body>> for Link {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().carry(request))
    }
}
