//! The servers on free ports of the loopback, with temporary data.

use std::net::TcpListener;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result};
use integration_tests::processes::{Binaries, Server};
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::{AppendEventsRequest, Event};
use prost_types::Timestamp;
use tempfile::TempDir;
use tokio::time::sleep;
use tonic::transport::Channel;

/// Whose events become more.
pub(crate) const USER: &str = "growing";
/// How often they do while somebody watches.
const INTERVAL: Duration = Duration::from_millis(500);

/// Both layers, and where they are.
pub(crate) struct Servers {
    /// Such as `http://127.0.0.1:40123`, as all of these.
    pub(crate) speed: String,
    pub(crate) serving: String,
    /// Where the serving layer speaks gRPC-Web.
    pub(crate) web: String,
    /// Pages that come from there may call.
    pub(crate) page_port: u16,
    ingest: IngestServiceClient<Channel>,
    events: usize,
    layers: [Server; 2],
    _folder: TempDir,
}

impl Servers {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("merganser-clients-").tempdir()?;
        let mut binaries = Binaries::beside_this(&folder.path().join("logs"))?;
        let (web_port, page_port) = (free_port()?, free_port()?);
        binaries.set("STORE__URL", folder.path().join("store").display());
        binaries.set("LOG__DIR", folder.path().join("data").display());
        binaries.set("SPEED_LAYER__GRPC_ADDRESS", "127.0.0.1:0");
        binaries.set("SPEED_LAYER__HTTP_ADDRESS", "");
        binaries.set("SERVING_LAYER__GRPC_ADDRESS", "127.0.0.1:0");
        binaries.set("SERVING_LAYER__HTTP_ADDRESS", format!("127.0.0.1:{web_port}"));
        binaries.set("SERVING_LAYER__WEB_ORIGINS", format!("http://127.0.0.1:{page_port}"));
        let speed = binaries.serve("speed-layer").await?;
        binaries.set("SERVING_LAYER__SPEED_LAYER", &speed.address);
        let serving = binaries.serve("serving-layer").await?;
        let ingest = IngestServiceClient::connect(speed.address.clone()).await?;
        let web = format!("http://127.0.0.1:{web_port}");
        let (speed_address, serving_address) = (speed.address.clone(), serving.address.clone());
        let layers = [serving, speed];
        let mut servers =
            Self { speed: speed_address, serving: serving_address, web, page_port, ingest, events: 0, layers, _folder: folder };
        servers.grow().await?;
        Ok(servers)
    }

    /// Waits for `watching`, while [`USER`] gets more and more events.
    pub(crate) async fn while_growing<T>(&mut self, watching: impl Future<Output = Result<T>>) -> Result<T> {
        let mut watching = pin!(watching);
        loop {
            tokio::select! {
                watched = watching.as_mut() => return watched,
                () = sleep(INTERVAL) => self.grow().await?,
            }
        }
    }

    async fn grow(&mut self) -> Result<()> {
        self.events += 1;
        let event = Event {
            event_id: format!("event-{}", self.events),
            user_id: USER.to_owned(),
            event_time: Some(Timestamp { seconds: 1_795_264_496, nanos: 0 }),
            amount: "1.50".to_owned(),
            ..Event::default()
        };
        self.ingest.append_events(AppendEventsRequest { events: vec![event] }).await.context("appending an event")?;
        Ok(())
    }

    pub(crate) async fn stop(self) -> Result<()> {
        for layer in self.layers {
            layer.stop().await?;
        }
        Ok(())
    }
}

/// One that nobody listens on now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
