//! A gRPC server on connections that somebody else accepts, with a bound on everything that a stranger can ask for.
//!
//! tonic serves; what it leaves open is closed here. Its defaults (0.14.9) are: streams of a connection and streams that a
//! connection makes the server reset without limit; headers of 16 KiB; no time limit behind the response headers; no bound on
//! connections; accept errors that spin; an end that waits for ever on one idle stream.
//!
//! ```text
//! incoming ─► connections: at most so many, of one host not all, each with a time to shake hands and to say hello, an age, an end
//!                └─► calls: of whoever may, at most so many in flight of a kind, each with a time to be answered and a time to be read
//!                       └─► the services
//! ```
//!
//! Whatever is over a bound is refused soon with RESOURCE_EXHAUSTED and how long to wait: for want of a place before anything of
//! it is read, for want of memory as soon as its length is known, an answer once it is encoded. Times are tokio's, so that a simulated clock drives them too.

/// Calls in flight: how many, how long.
mod calls;
/// One connection, from accept to end.
mod connection;
/// Calls by method and code.
mod counts;
/// Where it listens.
mod doors;
/// The bytes of questions and answers.
mod memory;
/// The bytes of events, by whose they are.
mod metered;
/// Who is at the other end.
mod peer;
/// When to try again, for libraries.
mod pushback;
/// What one host may have of all that.
mod shares;
/// What is answered, until its reader has it.
mod unread;
/// Streams of answers, to the end of their connection.
mod watch;
/// The same calls from a browser.
mod web;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tracing::{info, warn};

use crate::tls::ServerTls;

pub use calls::{Room, Rule, Rules, Shape};
pub(crate) use connection::age_of_next;
pub use counts::{CallCounts, MethodCalls, MethodCounts};
pub use doors::{Doors, DoorsError};
pub use peer::{AltName, Peer, PeerCertificate};
pub(crate) use shares::{Host, Share, Shares};
pub use web::Web;

/// Connections at once, if there are file handles enough. A server's clients are some processes with one connection each.
const MAX_CONNECTIONS: usize = 1024;
/// Of the file handles, one in so many goes to them at most: the log must never want for one.
const HANDLES_PER_CONNECTION: usize = 2;
/// Where the system says how many file handles this process may have.
const LIMITS: &str = "/proc/self/limits";
/// Wait after an accept that failed for want of a file handle or memory, which come back when others let go.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long calls in flight may go on after the order to stop; an idle stream would hold a server for ever.
pub const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Serves `routes` on the connections of `incoming` until `shutdown`, then lets calls in flight end within five seconds.
///
/// `rules` says what each method may take. With `tls` each connection begins with a handshake, which has its place among the connections and five
/// seconds; its files are looked after meanwhile. An error of `incoming` is that of one accept: the next one is tried, after a pause
/// where it would fail alike. Ends early only when `incoming` does.
pub async fn serve<IO, I>(routes: Routes, rules: Rules, tls: Option<ServerTls>, incoming: I, shutdown: CancellationToken)
where
    I: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let routes = routes.prepare();
    let _follow = tls.clone().map(|tls| AbortOnDropHandle::new(tokio::spawn(async move { tls.follow().await })));
    let places = share_of_handles(HANDLES_PER_CONNECTION, MAX_CONNECTIONS);
    let (places, shares) = (Arc::new(Semaphore::new(places)), Shares::of("connections", places));
    let connections = TaskTracker::new();
    {
        // Dropped before the calls in flight end, so that nobody connects to a server that takes no calls.
        let mut incoming = pin!(incoming);
        let mut trouble = Trouble::default();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = incoming.next() => accepted,
            };
            match accepted {
                None => break,
                Some(Err(error)) if concerns_one_connection(&error) => {}
                Some(Err(error)) => {
                    trouble.say(&error.to_string());
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                // Closed at once, as those below: whoever waits in line would not know that it is one.
                Some(Ok(io)) => match shares.take(Peer::of(&io.connect_info()).address) {
                    None => {}
                    Some(share) => match Arc::clone(&places).try_acquire_owned() {
                        Err(_) => trouble.say("all connections are taken"),
                        Ok(place) => {
                            trouble.is_over();
                            let (tls, shutdown) = (tls.clone(), shutdown.clone());
                            connections.spawn(connection::serve(io, tls, routes.clone(), rules.clone(), shutdown, (place, share)));
                        }
                    },
                },
            }
        }
    }
    connections.close();
    // Each ends by itself in time; a peer that found a way around that does not hold the server.
    if timeout(2 * STOP_PATIENCE, connections.wait()).await.is_err() {
        warn!(connections = connections.len(), "stopped with connections that did not end");
    }
}

/// One in so many of the file handles that this process may have, at least one and at most `most`.
pub(crate) fn share_of_handles(one_in: usize, most: usize) -> usize {
    share(std::fs::read_to_string(LIMITS).ok().as_deref(), one_in, most)
}

fn share(limits: Option<&str>, one_in: usize, most: usize) -> usize {
    let handles = limits.and_then(|text| text.lines().find_map(|line| line.strip_prefix("Max open files")));
    let soft = handles.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    soft.map_or(most, |soft| (soft / one_in).clamp(1, most))
}

/// Errors of the peer rather than of this machine: the next accept may well succeed.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Logs that connections are refused once, not once for each.
#[derive(Default)]
struct Trouble(Option<String>);

impl Trouble {
    fn say(&mut self, reason: &str) {
        if self.0.as_deref() != Some(reason) {
            warn!(reason, "connections are refused");
            self.0 = Some(reason.to_owned());
        }
    }

    fn is_over(&mut self) {
        if self.0.take().is_some() {
            info!("connections are accepted again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that connections leave half of the file handles alone, however few there are.
    #[test]
    fn file_handles() {
        let max_connections = |limits: Option<&str>| share(limits, HANDLES_PER_CONNECTION, MAX_CONNECTIONS);
        let limits = |soft: &str| format!("Max processes 1 1 processes\nMax open files            {soft}   524288   files\n");
        assert_eq!(max_connections(Some(&limits("64"))), 32);
        assert_eq!(max_connections(Some(&limits("1"))), 1);
        assert_eq!(max_connections(Some(&limits("1048576"))), MAX_CONNECTIONS);
        assert_eq!(max_connections(Some(&limits("unlimited"))), MAX_CONNECTIONS);
        assert_eq!(max_connections(None), MAX_CONNECTIONS);
    }
}
