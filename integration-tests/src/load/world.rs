//! The processes under load: both servers and the batch layer, and the echo's two, each a process of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{AppendEventsRequest, BatchGetUserStatsRequest};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

use super::calls::{Question, USERS_AT_ONCE, ask_one};
use super::echo::Recorded;
use super::history::{History, name};
use crate::processes::{Binaries, Server};

/// Events of one append while the world is filled.
const FILL: usize = 2_000;
/// For an import or a run, beside what the events take.
const PATIENCE: Duration = Duration::from_secs(600);
/// For a server that comes back.
const READY_PATIENCE: Duration = Duration::from_secs(120);

/// Both servers over one folder, the history in the batch view and the live events in the realtime view.
#[derive(Debug)]
pub struct World {
    binaries: Binaries,
    /// Log and store.
    pub data: PathBuf,
    /// What has happened.
    pub history: Arc<History>,
    /// `None` while it is being started again.
    speed: Option<Server>,
    serving: Server,
}

impl World {
    /// Writes the history, imports it, computes the view, starts the servers and sends the live events.
    ///
    /// # Errors
    /// A step that could not be done, with the last words of whoever failed.
    pub async fn make(folder: &Path, history: History) -> Result<Self> {
        let (data, history) = (folder.join("data"), Arc::new(history));
        let mut binaries = Binaries::beside_this(&folder.join("logs"))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let speed_address = format!("http://127.0.0.1:{port}");
        for (setting, value) in [
            ("LOG__DIR", data.display().to_string()),
            ("STORE__URL", data.join("store").display().to_string()),
            ("VIEWS__DIR", data.join("views").display().to_string()),
            // The speed layer comes back on the port that it had.
            ("SPEED_LAYER__GRPC_ADDRESS", format!("127.0.0.1:{port}")),
            ("SERVING_LAYER__GRPC_ADDRESS", "127.0.0.1:0".to_owned()),
            ("SPEED_LAYER__HTTP_ADDRESS", "127.0.0.1:0".to_owned()),
            ("SERVING_LAYER__HTTP_ADDRESS", "127.0.0.1:0".to_owned()),
            ("SERVING_LAYER__SPEED_LAYER", speed_address.clone()),
            ("BATCH_LAYER__SPEED_LAYER", speed_address),
        ] {
            binaries.set(setting, value);
        }
        let speed = binaries.serve("speed-layer").await?;
        let file = folder.join("history.parquet");
        history.write(&file)?;
        let patience = PATIENCE + Duration::from_millis(history.users * history.days / 50);
        binaries.run("batch-layer", &["import", &file.display().to_string()], patience).await?;
        binaries.run("batch-layer", &["run"], patience).await?;
        let serving = binaries.serve("serving-layer").await?;
        let world = Self { binaries, data, history, speed: Some(speed), serving };
        world.fill().await?;
        Ok(world)
    }

    async fn fill(&self) -> Result<()> {
        let mut client = IngestServiceClient::new(channel(self.speed_address()?)?);
        let mut events = self.history.live().peekable();
        while events.peek().is_some() {
            let append = AppendEventsRequest { events: events.by_ref().take(FILL).collect() };
            let sent = append.events.len() as i64;
            let answer = client.append_events(append).await.context("sending the live events")?.into_inner();
            ensure!(answer.accepted_count == sent, "{} of {sent} live events were accepted", answer.accepted_count);
        }
        Ok(())
    }

    /// Where events go.
    ///
    /// # Errors
    /// The speed layer does not run.
    pub fn speed_address(&self) -> Result<&str> {
        Ok(&self.speed.as_ref().context("the speed layer does not run")?.address)
    }

    /// Where questions go.
    #[must_use]
    pub fn serving_address(&self) -> &str {
        &self.serving.address
    }

    /// Runs `batch-layer` with these arguments, and gives what it printed.
    ///
    /// # Errors
    /// It fails.
    pub async fn batch_layer(&self, arguments: &[&str]) -> Result<String> {
        self.binaries.run("batch-layer", arguments, PATIENCE).await
    }

    /// Stops the speed layer and starts it again over its log; gives how long it took until a fresh answer came.
    ///
    /// # Errors
    /// It does not come back.
    pub async fn restart_speed_layer(&mut self) -> Result<Duration> {
        let speed = self.speed.take().context("the speed layer does not run")?;
        speed.stop().await?;
        let started = Instant::now();
        self.speed = Some(self.binaries.serve("speed-layer").await?);
        let mut client = UserStatsServiceClient::new(channel(&self.serving.address)?);
        while ask_one(&mut client, Question::Total, 0).await.is_err() {
            ensure!(started.elapsed() < READY_PATIENCE, "no fresh answer {READY_PATIENCE:?} after the speed layer came back");
            sleep(Duration::from_millis(5)).await;
        }
        Ok(started.elapsed())
    }

    /// Real answers, for the echo. The first user that is asked for has events in both halves.
    ///
    /// # Errors
    /// The serving layer's.
    pub async fn record(&self) -> Result<Recorded> {
        let mut client = UserStatsServiceClient::new(channel(&self.serving.address)?);
        let user_ids = (0..USERS_AT_ONCE as u64).map(|user| name(user % self.history.users)).collect();
        let many = BatchGetUserStatsRequest { user_ids, ..Default::default() };
        Ok(Recorded {
            total: Some(ask_one(&mut client, Question::Total, 0).await?),
            buckets: Some(ask_one(&mut client, Question::Buckets, 0).await?),
            many: Some(client.batch_get_user_stats(many).await?.into_inner()),
        })
    }

    /// The end of both logs, for errors.
    #[must_use]
    pub fn last_words(&self) -> String {
        let speed = self.speed.as_ref().map(Server::last_words).unwrap_or_default();
        format!("{speed}\n{}", self.serving.last_words())
    }

    /// Ends both.
    ///
    /// # Errors
    /// They cannot be ended.
    pub async fn stop(self) -> Result<()> {
        self.serving.stop().await?;
        if let Some(speed) = self.speed {
            speed.stop().await?;
        }
        Ok(())
    }
}

fn channel(address: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(address.to_owned())?.connect_lazy())
}

/// One process of the echo. Dropped, it is killed.
#[derive(Debug)]
pub struct EchoProcess {
    /// Where it listens.
    pub address: String,
    _child: Child,
}

impl EchoProcess {
    /// Starts this program as an echo that gives the answers of a file: as a front, if there is a back.
    ///
    /// # Errors
    /// It does not say where it listens.
    pub async fn start(recorded: &Path, back: Option<&str>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("echo").arg(recorded).args(back.map(|address| ["--back", address]).into_iter().flatten());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let line = BufReader::new(child.stdout.take().context("it is piped")?).lines().next_line().await?;
        let line = line.context("the echo ended before it listened")?;
        let (_, address) = line.split_once("listening on ").with_context(|| line.clone())?;
        Ok(Self { address: address.to_owned(), _child: child })
    }
}
