//! One connection: tonic's server on one stream of bytes, which this file can cut.
//!
//! tonic starts a task for each connection that nobody outside can end, so the stream of bytes is wrapped: once the
//! connection is cut, every read and write fails, and the task ends by itself.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_util::either::Either;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::debug;

use super::STOP_PATIENCE;
use super::calls::{Calls, Rules};
use super::peer::Peer;
use super::shares::Share;
use super::watch::Lane;
use crate::tls::{Door, ServerTls};

/// Streams of one connection; a client opens another connection for more.
const MAX_STREAMS: u32 = 128;
/// Streams that a connection may make the server reset before it is closed.
const MAX_RESET_STREAMS: usize = 256;
/// Streams that a client may open and reset before they are served.
const MAX_PENDING_RESETS: usize = 20;
/// Header names and values of one call.
const MAX_HEADER_BYTES: u32 = 8 << 10;
/// A silent peer is asked for a sign of life so often,
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// and is gone if it gives none for so long.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first bytes of HTTP/2 are there by then; the sign of life is asked for only after them.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// What every HTTP/2 client sends first.
const HELLO_BYTES: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// A connection this old takes no more calls, so that clients find new servers; a tenth more or less, so that they do not come
/// all at once.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// How long calls of a connection that is too old may go on.
const AGE_GRACE: Duration = Duration::from_secs(60);

/// Serves one connection to its end: its peer's, that of its age, or a while after `shutdown`. The handshake is part of it.
pub(super) async fn serve<IO>(
    io: IO,
    tls: Option<ServerTls>,
    routes: Routes,
    rules: Rules,
    shutdown: CancellationToken,
    place: (OwnedSemaphorePermit, Share),
) where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let info = io.connect_info();
    let mut peer = Peer::of(&info);
    let io = match tls {
        None => Either::Left(io),
        Some(tls) => match shutdown.run_until_cancelled(Box::pin(tls.accept(io, Door::Grpc))).await {
            None => return,
            Some(Err(error)) => return debug!(%error, "a TLS handshake failed"),
            Some(Ok((stream, certificate))) => {
                (peer.over_tls, peer.certificate) = (true, certificate);
                Either::Right(stream)
            }
        },
    };
    let (closed, cut, no_more_calls) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    let io = Connection {
        io,
        info: Box::new(info),
        cut: Box::pin(cut.clone().cancelled_owned()),
        hello: Some(Hello { bytes: 0, patience: Box::pin(sleep(HELLO_PATIENCE)) }),
        _closed: closed.clone().drop_guard(),
        _place: place,
    };
    // A stream that ended would be an order to stop.
    let only_this = stream::iter([Ok::<_, io::Error>(io)]).chain(stream::pending());
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_local_error_reset_streams(Some(MAX_RESET_STREAMS))
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .serve_with_incoming_shutdown(
            Calls::new(routes, rules, peer, cut.clone(), no_more_calls.clone(), Lane::shared()),
            only_this,
            no_more_calls.clone().cancelled_owned(),
        );
    let clock = async {
        let grace = tokio::select! {
            () = closed.cancelled() => Duration::ZERO,
            () = shutdown.cancelled() => STOP_PATIENCE,
            () = sleep(age_of_next()) => AGE_GRACE,
        };
        no_more_calls.cancel();
        tokio::select! {
            () = closed.cancelled() => {}
            () = sleep(grace) => {}
            () = stopped_meanwhile(&shutdown) => {}
        }
        cut.cancel();
    };
    let (served, ()) = tokio::join!(server, clock);
    if let Err(error) = served {
        debug!(%error, "a connection failed");
    }
}

/// Ages from 0.9 to 1.1 of the usual one, spread as evenly as the multiples of the golden ratio are (Weyl).
pub(crate) fn age_of_next() -> Duration {
    static CONNECTIONS: AtomicU32 = AtomicU32::new(0);
    let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    MAX_AGE.mul_f64(0.9 + 0.2 * (f64::from(number) * 0.618_033_988_75).fract())
}

/// A connection that is too old has the time of a stop at most once the server stops.
async fn stopped_meanwhile(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    sleep(STOP_PATIENCE).await;
}

/// The stream of bytes.
struct Connection<IO, Info> {
    io: IO,
    /// What the listener knows of it, boxed so that it may be anything.
    info: Box<Info>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Until it is said.
    hello: Option<Hello>,
    /// Tells when the connection is gone.
    _closed: DropGuard,
    /// Its place among the connections, and among those of its host.
    _place: (OwnedSemaphorePermit, Share),
}

/// The first bytes, which the keep-alive does not ask for.
struct Hello {
    bytes: usize,
    patience: Pin<Box<Sleep>>,
}

impl<IO, Info> Connection<IO, Info> {
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, "the connection was cut")),
            Poll::Pending => Ok(()),
        }
    }
}

impl<IO: AsyncRead + Unpin, Info> AsyncRead for Connection<IO, Info> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.poll_cut(cx)?;
        let Some(hello) = &mut this.hello else { return Pin::new(&mut this.io).poll_read(cx, buffer) };
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, buffer);
        hello.bytes += buffer.filled().len() - before;
        if hello.bytes >= HELLO_BYTES {
            this.hello = None;
        } else if read.is_pending() {
            ready!(hello.patience.as_mut().poll(cx));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer did not say hello")));
        }
        read
    }
}

impl<IO: AsyncWrite + Unpin, Info> AsyncWrite for Connection<IO, Info> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO, Info: Clone + Send + Sync + 'static> Connected for Connection<IO, Info> {
    type ConnectInfo = Info;

    fn connect_info(&self) -> Info {
        (*self.info).clone()
    }
}
