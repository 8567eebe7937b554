//! Calls to the speed layer that several questions share.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::poll;
use tokio::time::{Instant, timeout};
use views::EventSchema;

use super::fixture::FakeSpeed;
use super::until;
use crate::ServingError;
use crate::question::{Resolved, TimeRange};
use crate::speed::{SpeedClient, SpeedStates};
use crate::version::Version;

/// Everybody asks about the same version.
struct Asking {
    speed: FakeSpeed,
    client: SpeedClient,
    version: Arc<Version>,
}

impl Asking {
    /// A speed layer that lets no call through, and reads each as it comes.
    fn new(head: i64) -> Self {
        let speed = FakeSpeed::new(head);
        speed.gate.forget_permits(usize::MAX);
        speed.state().reads_early = true;
        Self {
            client: SpeedClient::new(speed.transport(), Arc::default()),
            speed,
            version: Arc::new(Version::unpublished(&EventSchema::default())),
        }
    }

    fn ask(&self, keys: Vec<String>) -> impl Future<Output = Result<SpeedStates, ServingError>> + Send + 'static {
        let (client, version) = (self.client.clone(), Arc::clone(&self.version));
        let resolved = Resolved { keys, begin: false, range: TimeRange::default(), read: TimeRange::default() };
        let deadline = Instant::now() + Duration::from_secs(20);
        async move { client.states("user_stats", &version, "", &resolved, false, deadline).await }
    }

    fn ask_about(&self, user: usize) -> impl Future<Output = Result<SpeedStates, ServingError>> + Send + 'static {
        self.ask(vec![format!("user-{user}")])
    }

    /// Two questions, each in a call of its own.
    async fn two_under_way(&self) -> [tokio::task::JoinHandle<Result<SpeedStates, ServingError>>; 2] {
        let first = tokio::spawn(self.ask_about(0));
        until(|| self.arrived() == 1).await;
        let second = tokio::spawn(self.ask_about(1));
        until(|| self.arrived() == 2).await;
        [first, second]
    }

    fn arrived(&self) -> usize {
        self.speed.state().arrived
    }
}

fn events_of(states: &SpeedStates, user: usize) -> i64 {
    let definition = views::Definition::user_stats(&EventSchema::default());
    states.rows[&format!("user-{user}")].iter().map(|rows| views::fold::event_count(&definition, rows)).sum()
}

/// Proves that questions which come while two calls are under way share the next one, each with its own keys, and that it is sent after
/// they came: an event that was acknowledged before them is in their answers, though the calls under way had been read without it.
#[tokio::test]
async fn those_who_wait_go_together() {
    let asking = Asking::new(9);
    let first = asking.two_under_way().await;
    asking.speed.state().head = 12;
    let mut waiting = [0, 1, 2, 0].map(|user| Box::pin(asking.ask_about(user)));
    for question in &mut waiting {
        assert!(poll!(question.as_mut()).is_pending());
    }
    asking.speed.gate.add_permits(100);
    for (user, question) in [0, 1, 2, 0].into_iter().zip(waiting) {
        let states = question.await.unwrap();
        assert_eq!((states.head[&0], events_of(&states, user), states.rows.len()), (12, 4, 1));
    }
    for (user, question) in first.into_iter().enumerate() {
        let states = question.await.unwrap().unwrap();
        assert_eq!((states.head[&0], events_of(&states, user)), (9, 3));
    }
    assert_eq!(asking.arrived(), 3);
}

/// Proves that a question which nobody waits for any more is not asked, that one about many keys goes by itself, and that an error is
/// that of everybody who shares the call, and of nobody after it.
#[tokio::test]
async fn who_does_not_share() {
    let asking = Asking::new(9);
    let first = asking.two_under_way().await;
    let many = tokio::spawn(asking.ask((0..17).map(|user| format!("user-{user}")).collect()));
    until(|| asking.arrived() == 3).await;
    {
        let mut left = Box::pin(asking.ask_about(2));
        assert!(poll!(left.as_mut()).is_pending());
    }
    asking.speed.gate.add_permits(100);
    for question in first.into_iter().chain([many]) {
        question.await.unwrap().unwrap();
    }
    assert_eq!(asking.arrived(), 3);

    asking.speed.state().down = true;
    for question in [1, 2].map(|user| tokio::spawn(asking.ask_about(user))) {
        assert!(matches!(question.await.unwrap(), Err(ServingError::SpeedUnavailable { .. })));
    }
    asking.speed.state().down = false;
    assert_eq!(events_of(&asking.ask_about(1).await.unwrap(), 1), 3);
}

/// Proves that a question waits no longer than it may, and that those behind it are answered.
#[tokio::test(start_paused = true)]
async fn a_deadline_is_a_questions_own() {
    let asking = Asking::new(9);
    let mut first = [0, 1].map(|user| Box::pin(asking.ask_about(user)));
    for question in &mut first {
        assert!(poll!(question.as_mut()).is_pending());
    }
    let mut third = Box::pin(asking.ask_about(2));
    assert!(matches!(poll!(third.as_mut()), Poll::Pending));
    // All three give up, and so do the calls of the first two.
    let late = timeout(Duration::from_secs(60), third).await.expect("it has a deadline");
    assert!(matches!(late, Err(ServingError::SpeedUnavailable { .. })));
    for question in first {
        assert!(question.await.is_err());
    }
    asking.speed.gate.add_permits(100);
    assert_eq!(events_of(&asking.ask_about(2).await.unwrap(), 2), 3);
}
