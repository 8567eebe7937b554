//! What one host may have of places that anybody may take.
//!
//! Places alone are a bound for the server, not for a stranger: whoever comes first has all of them, and everybody else has none.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;

/// Of the places, one in so many is left to others by each host.
const LEFT_TO_OTHERS: usize = 4;
/// What a host is given of IPv6 is a network, in which it has as many addresses as it likes (RFC 4291, 2.5.4).
const NETWORK: Ipv6Addr = Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 0);

/// Whoever has one IPv4 address, or one network of IPv6 of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host(IpAddr);

impl Host {
    pub(crate) fn of(address: SocketAddr) -> Self {
        Self(match address.ip().to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & NETWORK.to_bits())),
            ip @ IpAddr::V4(_) => ip,
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(ip) => ip.fmt(f),
            IpAddr::V6(ip) => write!(f, "{ip}/64"),
        }
    }
}

/// How many places of a kind each host has.
#[derive(Debug)]
pub(crate) struct Shares {
    /// A plural noun.
    kind: &'static str,
    /// Of one host.
    most: usize,
    taken: Mutex<HashMap<Host, Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    places: usize,
    /// Whether the log has said that there are no more.
    is_told: bool,
}

/// A place of one host's, which is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share(Option<(Arc<Shares>, Host)>);

impl Shares {
    /// Of so many `places` three in four are the most that one host may have.
    pub(crate) fn of(kind: &'static str, places: usize) -> Arc<Self> {
        let most = (places - places / LEFT_TO_OTHERS).max(1);
        Arc::new(Self { kind, most, taken: Mutex::default() })
    }

    /// A place for whoever calls from `address`; none if its host has all that it may have. Pipes and simulations have no address, and no bound.
    pub(crate) fn take(self: &Arc<Self>, address: Option<SocketAddr>) -> Option<Share> {
        let Some(host) = address.map(Host::of) else { return Some(Share(None)) };
        let mut hosts = self.lock();
        let taken = hosts.entry(host).or_default();
        if taken.places >= self.most {
            if !std::mem::replace(&mut taken.is_told, true) {
                warn!(%host, places = self.most, kind = self.kind, "a host has its share of the places; it gets no more until it lets go");
            }
            return None;
        }
        taken.places += 1;
        Some(Share(Some((Arc::clone(self), host))))
    }

    /// What is behind the lock is whole whoever panicked.
    fn lock(&self) -> MutexGuard<'_, HashMap<Host, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some((shares, host)) = &self.0 else { return };
        if let Entry::Occupied(mut taken) = shares.lock().entry(*host) {
            taken.get_mut().places -= 1;
            // Only hosts that are here are remembered: no more than there are places.
            if taken.get().places == 0 {
                taken.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("an address"))
    }

    /// Proves that a host has at most three in four of the places, however many ports or IPv6 addresses it has, that others have theirs
    /// meanwhile, and that what is given back is free again and forgotten.
    #[test]
    fn one_host() {
        let shares = Shares::of("places", 8);
        for [one, same, other] in [
            ["10.0.0.1:1000", "[::ffff:10.0.0.1]:1001", "10.0.0.2:1000"],
            ["[2001:db8::1]:1000", "[2001:db8:0:0:ffff::2]:1000", "[2001:db8:0:1::1]:1000"],
        ] {
            let mut held: Vec<Share> = (0..6).map(|_| shares.take(address(one)).expect("a place")).collect();
            assert!(shares.take(address(one)).is_none() && shares.take(address(same)).is_none(), "{one}");
            assert!(shares.take(address(other)).is_some() && shares.take(None).is_some(), "{other}");
            held.pop();
            held.push(shares.take(address(same)).expect("one that was given back"));
            assert!(shares.take(address(one)).is_none(), "{one}");
            drop(held);
            assert!(shares.lock().is_empty());
        }
    }

    /// Proves that few places are not none.
    #[test]
    fn few_places() {
        for (places, most) in [(1, 1), (2, 2), (3, 3), (4, 3), (64, 48), (1024, 768)] {
            assert_eq!(Shares::of("places", places).most, most, "{places}");
        }
    }

    /// Proves what a host is called.
    #[test]
    fn names() {
        for (text, name) in [("127.0.0.1:1", "127.0.0.1"), ("[::ffff:1.2.3.4]:1", "1.2.3.4"), ("[2001:db8::1]:1", "2001:db8::/64")] {
            assert_eq!(address(text).map(|address| Host::of(address).to_string()).as_deref(), Some(name));
        }
    }
}
