//! Who may call what, asked of running servers over TLS: every method of every service, as nobody, with each scope, and as a certificate.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use integration_tests::certificates::{Authority, HERE, LAYER, NOW, mutual};
use integration_tests::cluster::Cluster;
use merganser_proto::auth::methods::{Door, METHODS, door};
use merganser_proto::auth::{Refusal, Scope, new_token};
use merganser_proto::client::connect_lazily;
use merganser_proto::codec::BoundedCodec;
use merganser_proto::tls::{ClientFiles, ClientTls, Clock};
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{AppendEventsRequest, Event, GetUserStatsRequest};
use merganser_proto::{Bearer, FILE_DESCRIPTOR_SET, Transport};
use prost::Message;
use prost_types::{FileDescriptorSet, Timestamp};
use storage::config::ClientCertificates;
use tempfile::TempDir;
use tonic::client::Grpc;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

const PATIENCE: Duration = Duration::from_secs(30);
/// What no method is called.
const NO_METHOD: &str = "/merganser.v1.IngestService/DropEverything";

/// A cluster that asks everyone who they are, and a token for each scope. The cluster's own clients are known by their certificate.
struct Guarded {
    cluster: Cluster,
    ca: Authority,
    folder: TempDir,
    tokens: BTreeMap<&'static str, String>,
}

impl Guarded {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (ca, mut tls) = mutual(folder.path()).unwrap();
        tls.client_certificates = ClientCertificates::Optional;
        let mut file = format!(
            "[[client]]\nname = \"cluster\"\ncertificate = \"{LAYER}\"\nscopes = [\"ingest\", \"query\", \"admin\", \"internal\"]\n"
        );
        let mut tokens = BTreeMap::new();
        for (number, scope) in (1..).zip(Scope::ALL) {
            let (token, hash) = new_token([number; 32]);
            file += &format!("[[client]]\nname = \"only-{scope}\"\ntoken_sha256 = \"{hash}\"\nscopes = [\"{scope}\"]\n");
            tokens.insert(scope.as_str(), token);
        }
        let (token, hash) = new_token([9; 32]);
        file += &format!("[[client]]\nname = \"slow\"\ntoken_sha256 = \"{hash}\"\nscopes = [\"query\"]\ncalls_per_second = 1\n");
        tokens.insert("slow", token);
        std::fs::write(folder.path().join("tokens.toml"), file).unwrap();
        let (auth, audit) = (folder.path().join("tokens.toml"), folder.path().join("audit.jsonl"));
        let started = Cluster::start(false, |config| {
            config.tls = tls;
            config.auth.tokens = auth;
            config.auth.audit_file = audit;
        });
        Self { cluster: started.await.unwrap(), ca, folder, tokens }
    }

    /// The way to a server, with a token, with a certificate, with both or as nobody.
    fn way(&self, url: &str, token: Option<&str>, certificate: Option<(&Path, &Path)>) -> Transport {
        let trusted = self.cluster.tls();
        let files = ClientFiles { ca: trusted.ca(), client: certificate, server_name: None, insecure: false };
        let tls = ClientTls::load(files, Clock::new(SystemTime::now)).unwrap();
        let token = token.map(|token| Bearer::new(token, "a test").unwrap().for_address(url, false).unwrap());
        connect_lazily(url, &tls, |endpoint| endpoint.timeout(PATIENCE)).unwrap().carrying(token)
    }

    fn urls(&self) -> [String; 2] {
        [self.cluster.speed_url(), format!("https://{}", self.cluster.serving_address())]
    }

    fn audited(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("audit.jsonl")).unwrap()
    }
}

/// Calls a method with one empty message; gives how the answer begins.
async fn call(way: &Transport, path: &str) -> Result<(), Status> {
    let mut client = Grpc::new(way.clone());
    client.ready().await.unwrap();
    let codec = BoundedCodec::<(), ()>::default();
    client.server_streaming(Request::new(()), path.parse().unwrap(), codec).await.map(drop)
}

fn outcome(answer: &Result<(), Status>) -> (Code, String) {
    let Err(status) = answer else { return (Code::Ok, String::new()) };
    let reason = status.get_details_error_info().map_or_else(String::new, |info| info.reason);
    (status.code(), reason)
}

/// Every method of the services that are described.
fn described() -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for set in [FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                let of_one =
                    |method: &prost_types::MethodDescriptorProto| format!("/{}.{}/{}", file.package(), service.name(), method.name());
                paths.extend(service.method.iter().map(of_one));
            }
        }
    }
    paths
}

/// Proves of every method of every service, on both servers, that nobody, the wrong scope and the right scope get what the table says, and
/// that what is in no table is denied to everyone.
#[tokio::test(flavor = "multi_thread")]
async fn every_method() {
    let guarded = Guarded::start().await;
    let mut paths = described();
    assert!(paths.len() >= 16, "{paths:?}");
    let undeclared: Vec<_> = paths.iter().filter(|path| door(path).is_none()).collect();
    assert!(
        undeclared.is_empty(),
        "nobody has said who may call {undeclared:?}; put them into proto/src/auth/methods.rs and docs/security.md"
    );
    paths.extend(["v1", "v1alpha"].map(|version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")));
    paths.insert(NO_METHOD.to_owned());
    let mut asked = 0;
    for url in guarded.urls() {
        let nobody = guarded.way(&url, None, None);
        let ways = Scope::ALL.map(|scope| (scope, guarded.way(&url, Some(&guarded.tokens[scope.as_str()]), None)));
        for path in &paths {
            let (code, reason) = outcome(&call(&nobody, path).await);
            match door(path) {
                Some(Door::Open) => assert!(!is_refusal(code), "{path} as nobody: {code:?} {reason}"),
                _ => assert_eq!((code, &*reason), (Code::Unauthenticated, "TOKEN_MISSING"), "{path} as nobody"),
            }
            for (scope, way) in &ways {
                let (code, reason) = outcome(&call(way, path).await);
                match door(path) {
                    None => assert_eq!((code, &*reason), (Code::PermissionDenied, "METHOD_UNKNOWN"), "{path}"),
                    Some(Door::Scope(needed)) if needed != *scope => {
                        assert_eq!((code, &*reason), (Code::PermissionDenied, "SCOPE_MISSING"), "{path} with {scope}");
                    }
                    // What is wrong with an empty question is another matter, and so is a method of the other server.
                    Some(_) => assert!(!is_refusal(code), "{path} with {scope}: {code:?} {reason}"),
                }
                asked += 1;
            }
        }
    }
    assert_eq!(asked, 2 * 4 * paths.len());
    guarded.cluster.stop().await.unwrap();
}

fn is_refusal(code: Code) -> bool {
    matches!(code, Code::Unauthenticated | Code::PermissionDenied)
}

/// Proves that the layers work with one another behind closed doors, that a certificate is who the tokens file says and nobody without it, that a limit
/// tells when to come back, and that who did what is written down without a token in it.
#[tokio::test(flavor = "multi_thread")]
async fn whole_cluster() {
    let guarded = Guarded::start().await;
    let [speed, serving] = guarded.urls();
    let way = |url: &str, name: &str| guarded.way(url, Some(&guarded.tokens[name]), None);
    let event_time = Some(Timestamp { seconds: 1_700_000_000, nanos: 0 });
    let event =
        |id: usize| Event { event_id: format!("event-{id}"), user_id: "ann".into(), event_time, amount: "1.50".into(), ..Event::default() };
    let mut shop = IngestServiceClient::new(way(&speed, "ingest"));
    shop.append_events(AppendEventsRequest { events: (0..10).map(event).collect() }).await.unwrap();
    let version = guarded.cluster.batch_run().await.unwrap().unwrap();
    guarded.cluster.wait_for_version(version).await.unwrap();
    shop.append_events(AppendEventsRequest { events: (10..15).map(event).collect() }).await.unwrap();
    let question = || GetUserStatsRequest { user_id: "ann".into(), ..GetUserStatsRequest::default() };
    let answer = UserStatsServiceClient::new(way(&serving, "query")).get_user_stats(question()).await.unwrap().into_inner();
    assert_eq!(answer.stats.unwrap().event_count, 15);

    let slow = UserStatsServiceClient::new(way(&serving, "slow"));
    let at_once = (0..10).map(|_| {
        let mut slow = slow.clone();
        async move { slow.get_user_stats(question()).await.err() }
    });
    let refused = futures::future::join_all(at_once).await.into_iter().flatten().collect::<Vec<_>>();
    assert!(refused.len() >= 5, "{} of 10 calls at once were refused at one a second", refused.len());
    let status = &refused[0];
    assert_eq!((status.code(), status.get_details_error_info().unwrap().reason.as_str()), (Code::ResourceExhausted, "RATE_LIMITED"));
    let wait = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(2), "{wait:?}");

    let stranger = guarded.ca.issue(guarded.folder.path(), "stranger", &["spiffe://merganser.test/stranger"], NOW).unwrap();
    let asked = UserStatsServiceClient::new(guarded.way(&serving, None, Some((&stranger.0, &stranger.1))))
        .get_user_stats(question())
        .await
        .unwrap_err();
    assert_eq!(asked.get_details_error_info().unwrap().reason, "CERTIFICATE_UNKNOWN");
    let named = guarded.ca.issue(guarded.folder.path(), "named", &[HERE[0], LAYER], NOW).unwrap();
    UserStatsServiceClient::new(guarded.way(&serving, None, Some((&named.0, &named.1)))).get_user_stats(question()).await.unwrap();
    // A token goes before a certificate.
    let layer = guarded.cluster.tls();
    let both = guarded.way(&serving, Some("mgs_unknown"), layer.client());
    let asked = UserStatsServiceClient::new(both).get_user_stats(question()).await.unwrap_err();
    assert_eq!(asked.get_details_error_info().unwrap().reason, "TOKEN_UNKNOWN");

    guarded.cluster.erase("bob").await.unwrap();
    let audited = guarded.audited();
    let has = |parts: &[&str]| audited.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(has(&["\"act\":\"cut\"", "\"outcome\":\"done\"", "\"by\":\"cluster\"", "\"via\":\"certificate\"", "127.0.0.1"]), "{audited}");
    for outcome in ["begun", "done"] {
        assert!(
            has(&["\"act\":\"erase\"", &format!("\"outcome\":\"{outcome}\""), "\"user_id\":\"bob\"", "\"by\":\"cluster\""]),
            "{audited}"
        );
    }
    assert!(!guarded.tokens.values().any(|token| audited.contains(&token[4..])) && !audited.contains("\"ann\""), "{audited}");
    guarded.cluster.stop().await.unwrap();
}

/// Proves that docs/security.md has each method with the scope that the code asks for, and each reason of a refusal, and nothing else.
#[test]
fn the_page_is_the_table() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md")).unwrap();
    let row = |line: &str| {
        let (path, rest) = line.strip_prefix("| `/")?.split_once("` | ")?;
        Some((format!("/{path}"), rest.split(' ').next()?.to_owned()))
    };
    let written: Vec<_> = page.lines().filter_map(row).collect();
    let meant: Vec<_> = METHODS.iter().map(|(path, door)| ((*path).to_owned(), door.as_str().to_owned())).collect();
    assert_eq!(written, meant);
    for reason in Refusal::REASONS {
        assert!(page.contains(&format!("`{reason}`")), "{reason}");
    }
}
