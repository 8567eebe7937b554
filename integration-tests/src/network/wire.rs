//! Bytes between hosts: turmoil's TCP as tonic takes it, and connections that break.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use http::Uri;
use hyper_util::rt::TokioIo;
use merganser_proto::Transport;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::Endpoint;
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

use crate::sim::chance::Chance;

/// Every server listens there.
const PORT: u16 = 7000;
/// As the serving layer and the batch layer have it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Connections that are open, for who wants to break one. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<Mutex<Vec<Weak<Open>>>>);

/// One of them, as long as it is open.
#[derive(Debug)]
struct Open {
    from: &'static str,
    to: &'static str,
    broken: CancellationToken,
}

impl Connections {
    fn open(&self, from: &'static str, to: &'static str) -> Arc<Open> {
        let open = Arc::new(Open { from, to, broken: CancellationToken::new() });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&open));
        open
    }

    /// Breaks one, if there is one, and says which.
    pub(super) fn break_one(&self, chance: &Chance) -> Option<String> {
        let mut connections = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|open| open.upgrade().is_some_and(|open| !open.broken.is_cancelled()));
        let open = connections.get(chance.below(connections.len().max(1)))?.upgrade()?;
        open.broken.cancel();
        Some(format!("{} to {}", open.from, open.to))
    }

    /// Breaks those that end at a host.
    pub(super) fn break_all_to(&self, host: &str) {
        let connections = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        connections.iter().filter_map(Weak::upgrade).filter(|open| open.to == host).for_each(|open| open.broken.cancel());
    }
}

/// A channel from one host to a server on another, which connects when it is first needed. A peer that is silent for `patience`
/// is asked for a sign of life, and given up after as long again.
pub(super) fn channel(from: &'static str, to: &'static str, patience: Option<Duration>, connections: &Connections) -> Transport {
    let connections = connections.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let connections = connections.clone();
        async move {
            let io = TcpStream::connect((to, PORT)).await?;
            let open = connections.open(from, to);
            let broken = Box::pin(open.broken.clone().cancelled_owned());
            Ok::<_, io::Error>(TokioIo::new(Wire { io, end: Some((open, broken)) }))
        }
    });
    let patience = patience.unwrap_or(KEEP_ALIVE);
    let endpoint = Endpoint::from_shared(format!("http://{to}:{PORT}")).expect("the name of a host is one of an address");
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).http2_keep_alive_interval(patience).keep_alive_timeout(patience);
    Transport::new(endpoint.keep_alive_while_idle(true).connect_with_connector_lazy(connector))
}

/// The connections that others make to this host.
pub(super) async fn listen() -> io::Result<impl Stream<Item = io::Result<Wire>>> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    Ok(futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(io, _)| Wire { io, end: None });
        Some((accepted, listener))
    }))
}

/// One end of a connection.
pub(super) struct Wire {
    io: TcpStream,
    /// Of who has made the connection: it breaks for good there, and the other end hears of it as the network does.
    end: Option<(Arc<Open>, Pin<Box<WaitForCancellationFutureOwned>>)>,
}

impl Wire {
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match &mut self.end {
            Some((_, broken)) => match broken.as_mut().poll(cx) {
                Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
                Poll::Pending => Ok(()),
            },
            None => Ok(()),
        }
    }
}

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_broken(cx)?;
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_broken(cx)?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_broken(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
