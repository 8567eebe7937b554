use std::sync::atomic::{AtomicBool, Ordering};

use merganser_proto::v1::GetSpeedStatusResponse;
use merganser_proto::v1::speed_status_service_server::{SpeedStatusService, SpeedStatusServiceServer};
use tonic::Request;
use tonic::service::Routes;

use super::*;

/// Lets nobody in, or everybody.
struct Locked(Arc<AtomicBool>);

#[tonic::async_trait]
impl SpeedStatusService for Locked {
    async fn get_speed_status(&self, _: Request<GetSpeedStatusRequest>) -> Result<Response<GetSpeedStatusResponse>, Status> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Status::permission_denied("layers may not do that; it takes the scope internal"));
        }
        Ok(Response::new(GetSpeedStatusResponse::default()))
    }
}

/// Proves that a speed layer which says that it serves, and lets this layer in no more, counts as one that cannot be reached, until it lets it in
/// again.
#[tokio::test(start_paused = true)]
async fn refusals_are_no_reach() {
    let locked = Arc::new(AtomicBool::new(false));
    let (health, service) = tonic_health::server::health_reporter();
    health.set_serving::<RealtimeViewServiceServer<()>>().await;
    let routes = Routes::new(service).add_service(SpeedStatusServiceServer::new(Locked(Arc::clone(&locked))));
    let (mut reachable, _probe) = SpeedClient::new(Transport::new(routes), Arc::default()).watch_health();
    let changed = timeout(2 * RIGHTS_INTERVAL, reachable.changed()).await;
    assert!(changed.is_err() && *reachable.borrow(), "it is there, and lets us in");
    for is_locked in [true, false] {
        locked.store(is_locked, Ordering::Relaxed);
        timeout(2 * RIGHTS_INTERVAL, reachable.changed()).await.expect("it is noticed").expect("the probe goes on");
        assert_eq!(*reachable.borrow_and_update(), !is_locked);
    }
}
