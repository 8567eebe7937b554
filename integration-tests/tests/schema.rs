//! The schema changes under real servers: attributes come, widen and go, and every answer is what a plain sum of the sent texts says.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;

use integration_tests::cluster::Cluster;
use merganser_proto::v1::value::Kind;
use merganser_proto::v1::{AppendEventsRequest, Event, GetUserStatsRequest};

const USERS: usize = 4;
const PLAIN: &str = "SELECT user_id, count(*) AS event_count, sum(amount) AS revenue FROM events GROUP BY user_id";
const PIECES: &str =
    "SELECT user_id, count(*) AS event_count, sum(amount) AS revenue, sum(quantity) AS pieces FROM events GROUP BY user_id";

/// A cluster, and the quantities that were accepted: of each user, as texts.
struct Shop {
    cluster: Cluster,
    accepted: Vec<Vec<String>>,
    sent: usize,
}

/// Thousandths of a plain decimal text; none of anything else.
fn thousandths(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let value: i128 = format!("{whole}{fraction:0<3}").parse().ok()?;
    (fraction.len() <= 3).then_some(value)
}

impl Shop {
    fn declare(&mut self, attributes: &[(&str, &str)]) {
        let declared = attributes.iter().map(|(name, kind)| ((*name).to_owned(), String::from(*kind).try_into().unwrap())).collect();
        self.cluster.adjust(|config| config.events.attributes = declared);
    }

    async fn redeclare(&mut self, attributes: &[(&str, &str)]) {
        self.cluster.stop_speed().await.unwrap();
        self.declare(attributes);
        self.cluster.start_speed().await.unwrap();
    }

    fn view(&self, sql: &str) {
        let folder = self.cluster.folder().join("views");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("user_stats.sql"), sql).unwrap();
    }

    /// Sends an event of each text for each user; gives the reasons of those that were refused.
    async fn append(&mut self, texts: &[&str]) -> Vec<String> {
        let mut events = Vec::new();
        for text in texts {
            for user in 0..USERS {
                self.sent += 1;
                events.push(Event {
                    event_id: format!("e{}", self.sent),
                    user_id: format!("user-{user}"),
                    event_time: Some(prost_types::Timestamp { seconds: self.sent as i64, nanos: 0 }),
                    amount: "1".to_owned(),
                    attributes: [("quantity".to_owned(), (*text).to_owned())].into(),
                    ..Event::default()
                });
            }
        }
        let answer = self.cluster.ingest.clone().append_events(AppendEventsRequest { events: events.clone() }).await.unwrap().into_inner();
        let refused: BTreeMap<i32, String> =
            answer.rejected.into_iter().map(|row| (row.index, format!("{}: {}", row.field, row.reason))).collect();
        for (index, event) in (0..).zip(&events) {
            if !refused.contains_key(&index) {
                let user: usize = event.user_id["user-".len()..].parse().unwrap();
                self.accepted[user].push(event.attributes["quantity"].clone());
            }
        }
        refused.into_values().collect()
    }

    async fn publish(&self) -> i64 {
        let version = self.cluster.batch_run().await.unwrap().expect("there is something to publish");
        self.cluster.wait_for_version(version).await.unwrap();
        version
    }

    /// Every user has as many events as were accepted, and the pieces of those texts that are of the type.
    async fn check(&self, case: &str, is_of_type: impl Fn(&str) -> bool) {
        for (user, texts) in self.accepted.iter().enumerate() {
            let question = GetUserStatsRequest { user_id: format!("user-{user}"), ..GetUserStatsRequest::default() };
            let stats = self.cluster.stats.clone().get_user_stats(question).await.unwrap().into_inner().stats.unwrap();
            assert_eq!((stats.event_count as usize, stats.revenue.as_str()), (texts.len(), texts.len().to_string().as_str()), "{case}");
            let Some(pieces) = stats.measures.get("pieces") else { continue };
            let expected: i128 = texts.iter().filter(|text| is_of_type(text)).map(|text| thousandths(text).unwrap()).sum();
            let found = match pieces.kind.clone() {
                Some(Kind::IntValue(value)) => Some(i128::from(value) * 1000),
                Some(Kind::DecimalValue(text)) => thousandths(&text),
                other => panic!("{case}: {other:?}"),
            };
            assert_eq!(found, Some(expected), "{case}: user-{user}, {pieces:?}");
        }
    }
}

fn is_whole(text: &str) -> bool {
    text.parse::<i64>().is_ok()
}

/// Proves that an attribute may come, be declared, widen and go under running servers, before and after versions and restarts, with every
/// answer what the accepted texts add up to; that what would be left out of a sum is refused; and that each publish passes its audit.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn attributes_come_widen_and_go() {
    let cluster = Cluster::start(false, |config| config.log.partitions = 3).await.unwrap();
    let mut shop = Shop { cluster, accepted: vec![Vec::new(); USERS], sent: 0 };
    shop.view(PLAIN);
    // Undeclared: kept as text, whatever it is.
    assert!(shop.append(&["1", "2.5", "many"]).await.is_empty());
    shop.publish().await;
    assert!(shop.append(&["4", "0.125"]).await.is_empty());

    // Declared: from now on each row is checked, and what came before counts where it is of the type.
    shop.redeclare(&[("quantity", "int64")]).await;
    shop.view(PIECES);
    assert_eq!(shop.append(&["7", "1.5"]).await.len(), USERS);
    shop.publish().await;
    shop.append(&["10"]).await;
    shop.check("declared", is_whole).await;

    // Widened: no answer leaves a row out, so what the version that answers cannot add is refused until it is gone.
    shop.redeclare(&[("quantity", "decimal(22,3)")]).await;
    let refused = shop.append(&["11", "1.75"]).await;
    assert!(refused.len() == USERS && refused[0].contains("attributes.quantity") && refused[0].contains("int64"), "{refused:?}");
    shop.check("widened, and the version is the narrower one's", is_whole).await;
    let widened = shop.publish().await;
    let of_type = |text: &str| thousandths(text).is_some();
    shop.check("widened", of_type).await;
    assert_eq!(shop.append(&["1.75"]).await.len(), USERS);
    shop.append(&["12"]).await;
    shop.publish().await;
    shop.until_accepted("13.625").await;
    shop.check("the narrower version is gone", of_type).await;
    shop.cluster.stop_speed().await.unwrap();
    shop.cluster.start_speed().await.unwrap();
    shop.cluster.restart_serving().await.unwrap();
    shop.append(&["-0.001", "14"]).await;
    shop.check("after a restart", of_type).await;
    // Audited against what the speed layer folded.
    shop.publish().await;
    shop.check("published", of_type).await;
    assert!(shop.cluster.rollback("user_stats", widened - 1).await.is_err());
    shop.check("not rolled back", of_type).await;

    // Gone: once no version reads it.
    shop.view(PLAIN);
    shop.publish().await;
    shop.append(&["15"]).await;
    shop.publish().await;
    shop.redeclare(&[("colour", "string")]).await;
    assert!(shop.append(&["any"]).await.is_empty());
    shop.publish().await;
    shop.check("gone", of_type).await;
    // And whole when it is declared again.
    shop.redeclare(&[("quantity", "decimal(22,3)"), ("colour", "string")]).await;
    shop.view(PIECES);
    shop.append(&["16.5"]).await;
    shop.publish().await;
    shop.append(&["17"]).await;
    shop.check("declared again", of_type).await;
    shop.cluster.stop().await.unwrap();
}

impl Shop {
    /// Sends until nobody refuses: the speed layer lets a version go a moment after the next one answers.
    async fn until_accepted(&mut self, text: &str) {
        let polled = async {
            while !self.append(&[text]).await.is_empty() {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), polled).await.expect("the older version goes");
    }
}
