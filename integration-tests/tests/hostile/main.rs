//! What strangers may send to the two gRPC servers: after each attack an ordinary question is answered, and memory is what it was.
//!
//! The servers run in a process of their own, so that its memory, its processor time and its log are theirs alone. Attacks go
//! over loopback by raw HTTP/2, for no client library misbehaves enough; limits of minutes are tried with a paused clock. Every attack
//! on the process is tried twice: in plaintext, and over mutual TLS by a client who is known, to servers that ask everybody who they are. Those whom they do not
//! know attack in `nobody`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

/// Each of these attacks in plaintext and over TLS.
macro_rules! over_both {
    ($($attack:ident),*) => {
        mod over_plaintext {
            use crate::victim::Over;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $attack() {
                super::$attack(Over::Plaintext).await;
            })*
        }
        mod over_tls {
            use crate::victim::Over;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $attack() {
                super::$attack(Over::Tls).await;
            })*
        }
    };
}

/// Calls that are wrong as gRPC.
mod calls;
/// Limits of minutes, by a clock that is told the time.
mod clock;
/// Connections and frames that are wrong as HTTP/2.
mod connections;
/// Exports that nobody reads.
mod exports;
/// Handshakes that are wrong as TLS.
mod handshakes;
/// What the health service says when something is broken.
mod health;
/// Calls of those who are nobody, and forged tokens.
mod nobody;
/// Values that are wrong as events and questions.
mod values;
/// The servers that are attacked.
mod victim;
/// Streams of answers without end.
mod watches;
/// HTTP/2 by hand.
mod wire;
