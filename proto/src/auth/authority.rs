//! Whoever decides: the files as they were last read, and the one way through them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tonic::codegen::http::HeaderMap;
use tonic::codegen::http::header::AUTHORIZATION;
use tracing::{error, info};

use super::clients::Clients;
use super::counts::Counts;
use super::identity::Identity;
use super::jwt::Keys;
use super::limits::{Allowance, Bucket, Limiter};
use super::methods::{Door, door};
use super::refusal::{MAX_TOKEN_BYTES, Refusal};
use super::scope::Scope;
use super::{AuthError, AuthOptions, Clock};
use crate::audit::{Act, Audit};
use crate::hangup::Hangup;
use crate::metrics::Sheet;
use crate::server::Peer;

/// How often it is looked whether a file has changed.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);
/// Files of more bytes are none of ours.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// The scheme of the header, in any case of letters (RFC 9110, section 11.1).
const SCHEME: &str = "Bearer";
/// Refusals that are written into the audit log in a second; the others are counted there. Whoever guesses cannot fill a disk.
const AUDITED_REFUSALS_PER_SECOND: u64 = 5;

/// Decides for one server who may call what. See the module.
pub struct Authority {
    core: Arc<Core>,
    /// Looks at the files; absent while there is none, or no runtime.
    _watcher: Option<AbortOnDropHandle<()>>,
}

/// What a call is let in with.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// Nobody is asked at an open door.
    pub(crate) identity: Option<Identity>,
    /// What its events are taken from.
    pub(crate) allowance: Option<Allowance>,
}

struct Core {
    options: AuthOptions,
    clock: Clock,
    audit: Audit,
    known: RwLock<Arc<Known>>,
    limiter: Limiter,
    counts: Counts,
    refusals: std::sync::Mutex<Refusals>,
}

/// What the files say.
#[derive(Clone, Debug, Default)]
struct Known {
    clients: Arc<Clients>,
    keys: Option<Arc<Keys>>,
}

/// Refusals on their way into the audit log.
#[derive(Default)]
struct Refusals {
    room: Bucket,
    left_out: u64,
}

/// One of the two files. Each counts by itself: one that is broken does not keep the other from being read.
struct Watched {
    what: What,
    path: PathBuf,
    /// What it says, and counts.
    text: String,
    /// What it said at the last look, if that was something else: somebody may be writing it.
    seen: Option<String>,
    /// What it said, or why it could not be read, when there was a complaint about it.
    complained: Option<Result<String, String>>,
}

#[derive(Clone, Copy)]
enum What {
    Tokens,
    Keys,
}

impl Authority {
    /// Reads the files, and looks at them again from now on. Inside a runtime.
    ///
    /// # Errors
    /// A file cannot be read, or does not say what it should.
    pub fn open(options: AuthOptions, clock: Clock, audit: Audit) -> Result<Arc<Self>, AuthError> {
        let files = Watched::all(&options)?;
        let mut known = Known::default();
        for file in &files {
            known = file.parse(&options, &known, &file.text)?;
        }
        let is_on = options.tokens.is_some() || options.jwt.is_some();
        if is_on {
            info!(clients = known.clients.len(), jwt_keys = known.jwt_keys(), "asking everyone who they are");
        }
        let known = RwLock::new(Arc::new(known));
        let (limiter, counts, refusals) = (Limiter::default(), Counts::default(), std::sync::Mutex::default());
        let core = Arc::new(Core { options, clock, audit, known, limiter, counts, refusals });
        let watcher = is_on.then(|| AbortOnDropHandle::new(tokio::spawn(watch(Arc::clone(&core), files))));
        Ok(Arc::new(Self { core, _watcher: watcher }))
    }

    /// One that asks nobody who they are.
    #[must_use]
    pub fn off() -> Arc<Self> {
        static OFF: OnceLock<Arc<Authority>> = OnceLock::new();
        let off = || Self::open(AuthOptions::default(), Arc::new(|| SystemTime::UNIX_EPOCH), Audit::off());
        Arc::clone(OFF.get_or_init(|| off().expect("there is no file to read")))
    }

    /// Whether anybody is asked who they are.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.core.options.tokens.is_some() || self.core.options.jwt.is_some()
    }

    /// Where acts are written down.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.core.audit
    }

    /// Who has sent `headers`: whoever their token says, or, if there is none, whoever the connection's certificate is for. Where nobody is
    /// asked, anyone who calls from there, who [may](Identity::may) do everything.
    ///
    /// # Errors
    /// Nobody who is known here. It is counted and audited.
    pub fn identify(&self, headers: &HeaderMap, peer: &Peer) -> Result<Identity, Refusal> {
        self.core.identify(headers, peer).inspect_err(|refusal| self.refused(refusal, peer, None))
    }

    /// [`Self::identify`], and whether it may do `scope`.
    ///
    /// # Errors
    /// Nobody who is known here, or who may not. It is counted and audited.
    pub fn allow(&self, headers: &HeaderMap, peer: &Peer, scope: Scope) -> Result<Identity, Refusal> {
        let identity = self.identify(headers, peer)?;
        match identity.may(scope) {
            true => Ok(identity),
            false => {
                let refusal = Refusal::ScopeMissing { name: identity.name().to_owned(), scope };
                self.refused(&refusal, peer, None);
                Err(refusal)
            }
        }
    }

    /// Whether whoever sent `headers` may read the metrics.
    ///
    /// # Errors
    /// As [`Self::allow`].
    pub fn may_read_metrics(&self, headers: &HeaderMap, peer: &Peer) -> Result<(), Refusal> {
        self.core.options.metrics.map_or(Ok(()), |scope| self.allow(headers, peer, scope).map(drop))
    }

    /// Whether a call of the method at `path` is let in.
    pub(crate) fn admit(&self, path: &str, headers: &HeaderMap, peer: &Peer) -> Result<Admitted, Refusal> {
        self.core.admit(path, headers, peer, self.is_on()).inspect_err(|refusal| self.refused(refusal, peer, Some(path)))
    }

    /// Writes what was refused, and how often files had changed.
    ///
    /// # Errors
    /// The sheet's.
    pub fn write(&self, prefix: &str, sheet: &mut Sheet<'_>) -> fmt::Result {
        self.core.counts.write(prefix, sheet)
    }

    /// Counts it, and writes down what is none of a client's ordinary mistakes, unless there are too many.
    fn refused(&self, refusal: &Refusal, peer: &Peer, path: Option<&str>) {
        self.core.counts.refuse(refusal);
        if matches!(refusal, Refusal::RateLimited { .. }) {
            return;
        }
        let left_out = {
            let now = Instant::now();
            let mut refusals = self.core.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if refusals.room.debt(now).is_some() {
                refusals.left_out += 1;
                return;
            }
            refusals.room.take(1, AUDITED_REFUSALS_PER_SECOND, now);
            std::mem::take(&mut refusals.left_out)
        };
        // A path that is no method of ours may hold anything.
        let method = path.map(|path| if door(path).is_some() { path.to_owned() } else { "other".to_owned() });
        let mut act = Act::new("call").refused(refusal.reason()).from(peer.address);
        act = method.into_iter().fold(act, |act, method| act.with("method", method));
        if let Refusal::ScopeMissing { name, .. } = refusal {
            act = act.with("client", name.as_str());
        }
        if left_out > 0 {
            act = act.with("left_out_before", left_out);
        }
        self.core.audit.note(act);
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("options", &self.core.options).finish_non_exhaustive()
    }
}

impl Core {
    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn take_over(&self, known: Known) {
        let (clients, jwt_keys) = (known.clients.len(), known.jwt_keys());
        info!(clients, jwt_keys, "the files of [auth] have changed, and count from now on");
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        self.counts.reloads.inc();
        self.audit.note(Act::new("reload").with("clients", clients as u64).with("jwt_keys", jwt_keys as u64));
    }

    fn identify(&self, headers: &HeaderMap, peer: &Peer) -> Result<Identity, Refusal> {
        if self.options.tokens.is_none() && self.options.jwt.is_none() {
            return Ok(Identity::anyone(peer.address, self.options.limits));
        }
        let (known, now) = (self.known(), (self.clock)());
        let identity = match bearer(headers)? {
            Some(token) => known.of_token(token, now)?,
            None if peer.certificate.is_some() => known.clients.of_certificate(peer, now)?,
            None => return Err(Refusal::TokenMissing),
        };
        Ok(identity.within(self.options.limits).calling_from(peer.address))
    }

    fn admit(&self, path: &str, headers: &HeaderMap, peer: &Peer, is_on: bool) -> Result<Admitted, Refusal> {
        let door = match door(path) {
            Some(Door::Open) => return Ok(Admitted { identity: None, allowance: None }),
            // The server says itself that there is no such method.
            None if !is_on => Door::Known,
            Some(door) => door,
            None => {
                // Whoever is nobody is not told which methods there are.
                self.identify(headers, peer)?;
                return Err(Refusal::MethodUnknown);
            }
        };
        let identity = self.identify(headers, peer)?;
        if let Door::Scope(scope) = door
            && !identity.may(scope)
        {
            return Err(Refusal::ScopeMissing { name: identity.name().to_owned(), scope });
        }
        let admitted = self.limiter.admit(&identity, door == Door::Scope(Scope::Ingest));
        let limited = |(measure, retry)| Refusal::RateLimited { name: identity.name().to_owned(), measure, retry };
        let allowance = admitted.map_err(limited)?;
        Ok(Admitted { identity: Some(identity), allowance })
    }
}

impl Known {
    fn jwt_keys(&self) -> usize {
        self.keys.as_ref().map_or(0, |keys| keys.len())
    }

    fn of_token(&self, token: &str, now: SystemTime) -> Result<Identity, Refusal> {
        match &self.keys {
            // None of our own tokens has a dot.
            Some(keys) if token.contains('.') => keys.verify(token, now).map(|(identity, _)| identity),
            _ => self.clients.of_token(token, now),
        }
    }
}

/// The token of the headers, if there is one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut sent = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = sent.next() else { return Ok(None) };
    if sent.next().is_some() {
        return Err(Refusal::TokenAmbiguous);
    }
    if value.len() > SCHEME.len() + 1 + MAX_TOKEN_BYTES {
        return Err(Refusal::TokenTooLong);
    }
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Refusal::TokenMalformed)?;
    let token = token.trim_matches(' ');
    // Two tokens in one header, say, joined on the way by a proxy.
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte));
    match scheme.eq_ignore_ascii_case(SCHEME) && is_token {
        true => Ok(Some(token)),
        false => Err(Refusal::TokenMalformed),
    }
}

impl Watched {
    /// The files that are set, as they are.
    fn all(options: &AuthOptions) -> Result<Vec<Self>, AuthError> {
        let tokens = options.tokens.iter().map(|path| (What::Tokens, path));
        let keys = options.jwt.iter().map(|jwt| (What::Keys, &jwt.keys));
        let open = |(what, path): (What, &PathBuf)| {
            let text = read(path).map_err(|source| AuthError::Read { path: path.clone(), source })?;
            Ok(Self { what, path: path.clone(), text, seen: None, complained: None })
        };
        tokens.chain(keys).map(open).collect()
    }

    /// What is known when `text` is what this file says.
    fn parse(&self, options: &AuthOptions, known: &Known, text: &str) -> Result<Known, AuthError> {
        let parsed = match (self.what, &options.jwt) {
            (What::Keys, Some(jwt)) => Keys::parse(text, &jwt.issuer, &jwt.audience)
                .map(|keys| Known { clients: Arc::clone(&known.clients), keys: Some(Arc::new(keys)) }),
            _ => Clients::parse(text).map(|clients| Known { clients: Arc::new(clients), keys: known.keys.clone() }),
        };
        parsed.map_err(|reason| AuthError::Invalid { path: self.path.clone(), reason })
    }

    /// Takes note of what was read: what has to be tried now, if anything.
    fn note(&mut self, read: Result<String, String>) -> Option<Result<String, String>> {
        if read.as_ref() == Ok(&self.text) {
            (self.seen, self.complained) = (None, None);
            return None;
        }
        if self.complained.as_ref() == Some(&read) {
            return None;
        }
        match read {
            // What is read twice alike is meant.
            Ok(text) if self.seen.as_ref() != Some(&text) => {
                self.seen = Some(text);
                None
            }
            read => Some(read),
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    std::fs::read_to_string(path)
}

/// Takes over what files have come to say, and looks at once when the process is told to by SIGHUP, which would end it otherwise. Does not
/// end.
async fn watch(core: Arc<Core>, mut files: Vec<Watched>) {
    let mut hangup = Hangup::new();
    loop {
        hangup.within(RELOAD_INTERVAL).await;
        for file in &mut files {
            let path = file.path.clone();
            let reading = tokio::task::spawn_blocking(move || read(&path).map_err(|source| chain(&AuthError::Read { path, source })));
            let Ok(read) = reading.await else { return };
            let Some(read) = file.note(read) else { continue };
            let parsed = read.clone().and_then(|text| file.parse(&core.options, &core.known(), &text).map_err(|e| chain(&e)));
            match parsed {
                Ok(known) => {
                    core.take_over(known);
                    (file.text, file.seen, file.complained) = (read.unwrap_or_default(), None, None);
                }
                Err(reason) => {
                    error!(reason, "a file of [auth] has changed and cannot be used; what it said before counts on");
                    core.counts.failed_reloads.inc();
                    core.audit.note(Act::new("reload").failed(&reason));
                    file.complained = Some(read);
                }
            }
        }
    }
}

fn chain(error: &AuthError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
