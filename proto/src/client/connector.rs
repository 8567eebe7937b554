//! One connection: to an address, over TLS or not, with an eye on what goes wrong.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

use super::{Last, Trouble, locked};
use crate::BoxError;
use crate::tls::ClientTls;

/// How a TLS record begins that says what is wrong: its type, and the version's first byte.
const ALERT: [u8; 2] = [0x15, 0x03];

type Bytes = Either<TcpStream, Box<TlsStream<TcpStream>>>;
type Connecting = Pin<Box<dyn Future<Output = Result<TokioIo<Watched<Bytes>>, BoxError>> + Send>>;

/// Makes connections to one address, whenever tonic needs one.
#[derive(Clone)]
pub(super) struct Connector {
    /// As messages name it.
    pub(super) server: Arc<str>,
    pub(super) host: Arc<str>,
    pub(super) port: u16,
    /// Absent for plaintext.
    pub(super) tls: Option<ClientTls>,
    /// What was learnt last.
    pub(super) last: Last,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Watched<Bytes>>;
    type Error = BoxError;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Connecting {
        let Self { server, host, port, tls, last } = self.clone();
        Box::pin(async move {
            let io = TcpStream::connect((&*host, port)).await?;
            io.set_nodelay(true)?;
            // What was learnt of another connection is over.
            *locked(&last) = None;
            let (io, first) = match &tls {
                None => (Either::Left(io), First::Plaintext),
                Some(tls) => (Either::Right(shake_hands(io, tls, &host, &server).await?), First::OverTls),
            };
            Ok(TokioIo::new(Watched { io, first: Some(first), server, last }))
        })
    }
}

async fn shake_hands(io: TcpStream, tls: &ClientTls, host: &str, server: &Arc<str>) -> Result<Box<TlsStream<TcpStream>>, BoxError> {
    let name = tls.name_of(host).ok_or_else(|| Trouble::NoName { server: Arc::clone(server) })?;
    match TlsConnector::from(tls.config()).connect(name, io).await {
        Ok(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => Ok(Box::new(stream)),
        Ok(_) => Err(Trouble::NotGrpc { server: Arc::clone(server) }.into()),
        Err(error) => Err(match Trouble::of(&error, server) {
            Some(Trouble::RefusesCertificate { .. }) if !tls.shows_certificate() => {
                Trouble::WantsCertificate { server: Arc::clone(server) }.into()
            }
            Some(trouble) => trouble.into(),
            None if is_end(&error) => Trouble::Silent { server: Arc::clone(server) }.into(),
            None => error.into(),
        }),
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe
    )
}

/// A stream of bytes that remembers what it learns of the other end's TLS.
pub(super) struct Watched<IO> {
    io: IO,
    /// Until the first byte is there.
    first: Option<First>,
    server: Arc<str>,
    last: Last,
}

/// What the first bytes may tell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    /// That the other end expected TLS.
    Plaintext,
    /// By their absence, that it did not like us: with TLS 1.3 a client is through before the server has seen its certificate.
    OverTls,
}

impl<IO> Watched<IO> {
    fn learn(&self, trouble: Trouble) -> io::Error {
        *locked(&self.last) = Some(trouble.clone());
        io::Error::new(io::ErrorKind::InvalidData, trouble)
    }

    /// What a read was about, if it was about TLS.
    fn judge(&mut self, read: &io::Result<()>, bytes: &[u8]) -> Option<Trouble> {
        let server = || Arc::clone(&self.server);
        match (read, self.first) {
            (Err(error), first) => Trouble::of(error, &self.server)
                .or_else(|| (first == Some(First::OverTls) && is_end(error)).then(|| Trouble::Silent { server: server() })),
            (Ok(()), Some(First::OverTls)) if bytes.is_empty() => Some(Trouble::Silent { server: server() }),
            (Ok(()), Some(First::Plaintext)) if bytes.starts_with(&ALERT) => Some(Trouble::SpeaksTls { server: server() }),
            (Ok(()), _) => None,
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Watched<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, buffer) else { return Poll::Pending };
        if read.is_ok() && (self.first.is_none() || room == 0) {
            return Poll::Ready(read);
        }
        let trouble = self.judge(&read, &buffer.filled()[before..]);
        self.first = None;
        Poll::Ready(match trouble {
            Some(trouble) => Err(self.learn(trouble)),
            None => read,
        })
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Watched<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
