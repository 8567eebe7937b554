use std::net::{Ipv4Addr, SocketAddr};
use std::time::UNIX_EPOCH;

use tonic::Code;
use tonic::codegen::http::HeaderValue;
use tonic_types::StatusExt;

use super::super::clients::tests::one;
use super::super::limits::Limits;
use super::super::methods::METHODS;
use super::*;

const APPEND: &str = "/merganser.v1.IngestService/AppendEvents";
const GET: &str = "/merganser.v1.UserStatsService/GetUserStats";

struct Guarded {
    folder: tempfile::TempDir,
    authority: Arc<Authority>,
}

fn peer() -> Peer {
    Peer { address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 4711))), ..Peer::default() }
}

fn headers(values: &[&str]) -> HeaderMap {
    values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap())).collect()
}

impl Guarded {
    fn new(tokens: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("tokens.toml"), tokens).unwrap();
        let options = AuthOptions { tokens: Some(folder.path().join("tokens.toml")), ..AuthOptions::default() };
        let clock: Clock = Arc::new(|| UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let audit = Audit::open("test", folder.path().join("audit.jsonl"), Arc::clone(&clock)).unwrap();
        let authority = Authority::open(options, clock, audit).unwrap();
        Self { folder, authority }
    }

    fn admit(&self, path: &str, values: &[&str]) -> Result<Option<Identity>, Refusal> {
        self.authority.admit(path, &headers(values), &peer()).map(|admitted| admitted.identity)
    }

    fn audited(&self) -> Vec<String> {
        std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap().lines().map(str::to_owned).collect()
    }
}

/// Proves that headers that say nothing clear are refused each for its own reason, before any token is looked at.
#[tokio::test]
async fn headers_that_are_refused() {
    let (text, token) = one("shop", "ingest");
    let door = Guarded::new(&text);
    let bearer = format!("Bearer {token}");
    let cases = [
        (vec![], Refusal::TokenMissing),
        (vec![bearer.as_str(), bearer.as_str()], Refusal::TokenAmbiguous),
        (vec!["Bearer"], Refusal::TokenMalformed),
        (vec!["Bearer "], Refusal::TokenMalformed),
        (vec![token.as_str()], Refusal::TokenMalformed),
        (vec!["Basic dTpw"], Refusal::TokenMalformed),
        (vec!["Bearer a, Bearer b"], Refusal::TokenMalformed),
        (vec!["Bearer é"], Refusal::TokenMalformed),
        (vec!["Bearer unknown"], Refusal::TokenUnknown),
        // Nobody's keys are set up.
        (vec!["Bearer a.b.c"], Refusal::TokenUnknown),
    ];
    for (values, expected) in cases {
        assert_eq!(door.admit(APPEND, &values), Err(expected), "{values:?}");
    }
    let long = format!("Bearer {}", "a".repeat(1 << 20));
    assert_eq!(door.admit(APPEND, &[&long]), Err(Refusal::TokenTooLong));
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let shop = door.admit(APPEND, &[&format!("{scheme} {token}")]).unwrap().unwrap();
        assert_eq!((shop.name(), shop.address()), ("shop", peer().address));
    }
}

/// Proves for each method in the table, and for one that is not, that nobody, the wrong scope and the right scope get what they should.
#[tokio::test]
async fn doors() {
    let doors: Vec<(Scope, Guarded, String)> = Scope::ALL
        .into_iter()
        .map(|scope| {
            let (text, token) = one("somebody", scope.as_str());
            (scope, Guarded::new(&text), format!("Bearer {token}"))
        })
        .collect();
    for (path, wanted) in METHODS.iter().copied().chain([("/merganser.v1.IngestService/DropEverything", Door::Open)]) {
        let is_known = door(path).is_some();
        for (scope, door, bearer) in &doors {
            let nobody = door.admit(path, &[]);
            let somebody = door.admit(path, &[bearer]).map(|identity| identity.map(|it| it.name().to_owned()));
            match wanted {
                _ if !is_known => {
                    assert_eq!(nobody, Err(Refusal::TokenMissing), "{path}");
                    assert_eq!(somebody, Err(Refusal::MethodUnknown), "{path}");
                }
                Door::Open => assert_eq!((nobody, somebody), (Ok(None), Ok(None)), "{path}"),
                Door::Known => assert_eq!((nobody, somebody), (Err(Refusal::TokenMissing), Ok(Some("somebody".to_owned()))), "{path}"),
                Door::Scope(needed) => {
                    let missing = Refusal::ScopeMissing { name: "somebody".to_owned(), scope: needed };
                    let expected = if needed == *scope { Ok(Some("somebody".to_owned())) } else { Err(missing) };
                    assert_eq!((nobody, somebody), (Err(Refusal::TokenMissing), expected), "{path}");
                }
            }
        }
    }
}

/// Proves that where nothing is set up nobody is asked, and that limits hold for addresses then.
#[tokio::test(start_paused = true)]
async fn nobody_is_asked() {
    let off = Authority::off();
    assert!(!off.is_on());
    let anyone = off.admit(APPEND, &headers(&["nonsense"]), &peer()).unwrap().identity.unwrap();
    assert_eq!((anyone.name(), anyone.via(), anyone.may(Scope::Admin)), ("127.0.0.1", super::super::Via::Address, true));
    assert!(off.admit("/no.such/Method", &HeaderMap::new(), &peer()).is_ok());
    let limits = Limits { calls_per_second: Some(1), ingest_bytes_per_second: None };
    let options = AuthOptions { limits, ..AuthOptions::default() };
    let limited = Authority::open(options, Arc::new(|| UNIX_EPOCH), Audit::off()).unwrap();
    let asked = |_| limited.admit(GET, &HeaderMap::new(), &peer());
    let refused = (0..3).map(asked).find_map(Result::err).expect("the third is over the limit");
    let status = refused.status();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
    // Whoever checks the health is not held up.
    assert!(limited.admit("/grpc.health.v1.Health/Check", &HeaderMap::new(), &peer()).is_ok());
}

/// Proves that metrics are open unless they are set to take a scope, and then take it.
#[tokio::test]
async fn metrics() {
    assert!(Authority::off().may_read_metrics(&HeaderMap::new(), &peer()).is_ok());
    let (text, token) = one("scraper", "query");
    let open = Guarded::new(&text);
    assert!(open.authority.may_read_metrics(&HeaderMap::new(), &peer()).is_ok());
    let options = AuthOptions { metrics: Some(Scope::Query), ..open.authority.core.options.clone() };
    let closed = Authority::open(options, Arc::clone(&open.authority.core.clock), Audit::off()).unwrap();
    assert_eq!(closed.may_read_metrics(&HeaderMap::new(), &peer()), Err(Refusal::TokenMissing));
    assert!(closed.may_read_metrics(&headers(&[&format!("Bearer {token}")]), &peer()).is_ok());
    let (ingest, ingest_token) = one("shop", "ingest");
    let other = Guarded::new(&ingest);
    let options = AuthOptions { metrics: Some(Scope::Query), ..other.authority.core.options.clone() };
    let closed = Authority::open(options, Arc::clone(&other.authority.core.clock), Audit::off()).unwrap();
    let refused = closed.may_read_metrics(&headers(&[&format!("Bearer {ingest_token}")]), &peer()).unwrap_err();
    assert_eq!(refused.reason(), "SCOPE_MISSING");
}

/// Waits until it holds. Time is paused, so it goes on by itself.
async fn until(holds: impl Fn() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("waited in vain");
}

/// Proves that a file that has changed counts soon without a restart, that one that is broken, cut off or gone keeps what it said before,
/// and that each is written down once.
#[tokio::test(start_paused = true)]
async fn files_are_looked_at_again() {
    let ((text, token), (other_text, other_token)) = (one("shop", "ingest"), one("warehouse", "ingest"));
    let door = Guarded::new(&text);
    let file = door.folder.path().join("tokens.toml");
    let is = |token: &str| door.admit(APPEND, &[&format!("Bearer {token}")]).is_ok();
    assert!(is(&token) && !is(&other_token));
    std::fs::write(&file, &other_text).unwrap();
    until(|| is(&other_token)).await;
    assert!(!is(&token));
    let failures = || door.authority.core.counts.failed_reloads.get();
    for (number, broken) in (1..).zip(["[[client]]\nname = ", "", "client = 7"]) {
        std::fs::write(&file, broken).unwrap();
        until(|| failures() == number).await;
        tokio::time::sleep(10 * RELOAD_INTERVAL).await;
        assert!(is(&other_token) && failures() == number);
    }
    // Nobody, in so many words.
    std::fs::write(&file, "client = []").unwrap();
    until(|| !is(&other_token)).await;
    std::fs::write(&file, &other_text).unwrap();
    until(|| is(&other_token)).await;
    std::fs::remove_file(&file).unwrap();
    until(|| failures() == 4).await;
    assert!(is(&other_token));
    std::fs::write(&file, format!("{text}{other_text}")).unwrap();
    until(|| is(&token)).await;
    assert!(is(&other_token));
    until(|| door.audited().iter().filter(|line| line.contains("\"act\":\"reload\"")).count() == 8).await;
}

/// Proves that refusals are counted each, written down in part when there are many, with how many were not, and that no token is anywhere.
#[tokio::test(start_paused = true)]
async fn refusals_are_told() {
    let (text, token) = one("shop", "query");
    let door = Guarded::new(&text);
    for _ in 0..1000 {
        door.admit(APPEND, &["Bearer mgs_guess"]).unwrap_err();
    }
    door.admit("/secret-payload/x", &[&format!("Bearer {token}")]).unwrap_err();
    tokio::time::sleep(Duration::from_secs(60)).await;
    door.admit(APPEND, &[&format!("Bearer {token}")]).unwrap_err();
    until(|| door.audited().iter().any(|line| line.contains("SCOPE_MISSING"))).await;
    let lines = door.audited();
    assert_eq!(lines.len() as u64, AUDITED_REFUSALS_PER_SECOND + 2, "{lines:#?}");
    let last = lines.iter().find(|line| line.contains("SCOPE_MISSING")).unwrap();
    assert!(last.contains("\"client\":\"shop\"") && last.contains("\"left_out_before\":995") && last.contains(APPEND), "{last}");
    assert!(!lines.iter().any(|line| line.contains("mgs_") || line.contains("payload")), "{lines:#?}");
    let counted = &door.authority.core.counts;
    let numbers: Arc<dyn crate::metrics::Numbers> = Arc::new(Told(Arc::clone(&door.authority)));
    let told = crate::metrics::text(&numbers).unwrap();
    assert!(told.contains("a_refused_calls_total{reason=\"token_unknown\"} 1000\n"), "{told}");
    assert!(told.contains("a_refused_calls_total{reason=\"method_unknown\"} 1\n"), "{told}");
    assert_eq!(counted.reloads.get(), 0);
}

struct Told(Arc<Authority>);

impl crate::metrics::Numbers for Told {
    fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        self.0.write("a", sheet)
    }
}

/// Proves that each refusal has its own reason, and that its code and its status over HTTP agree.
#[test]
fn reasons() {
    let all = [
        Refusal::TokenMissing,
        Refusal::TokenAmbiguous,
        Refusal::TokenMalformed,
        Refusal::TokenTooLong,
        Refusal::TokenUnknown,
        Refusal::TokenExpired,
        Refusal::TokenNotYetValid,
        Refusal::JwtAlgorithm,
        Refusal::JwtKeyUnknown,
        Refusal::JwtSignature,
        Refusal::JwtIssuer,
        Refusal::JwtAudience,
        Refusal::JwtClaims,
        Refusal::CertificateUnknown,
        Refusal::ScopeMissing { name: "a".to_owned(), scope: Scope::Admin },
        Refusal::MethodUnknown,
        Refusal::RateLimited { name: "a".to_owned(), measure: super::super::Measure::Calls, retry: Duration::ZERO },
    ];
    assert_eq!(all.each_ref().map(Refusal::reason), Refusal::REASONS);
    for refusal in all {
        let status = refusal.status();
        assert_eq!(status.get_details_error_info().unwrap().reason, refusal.reason());
        let expected = match status.code() {
            Code::Unauthenticated => 401,
            Code::PermissionDenied => 403,
            Code::ResourceExhausted => 429,
            other => panic!("{other:?}"),
        };
        assert_eq!(refusal.http_status(), expected);
    }
}
