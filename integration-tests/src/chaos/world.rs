//! One data folder with the programs that work on it: their addresses, their settings, their clients.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{AppendEventsRequest, GetUserStatsRequest};
use rand::Rng;
use tonic::transport::{Channel, Endpoint};

use super::process::{Process, Start};
use super::shim::{self, Shim};

/// Longest wait for an answer.
const CALL_PATIENCE: Duration = Duration::from_secs(6);
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// How long a server may take until it works.
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Below the ports that the system gives to clients: one of these could else take a server's while it is down.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// Which of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `speed-layer serve`.
    Speed,
    /// `serving-layer serve`.
    Serving,
    /// `batch-layer run`.
    Batch,
}

impl Role {
    /// The program's name.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Speed => "speed-layer",
            Self::Serving => "serving-layer",
            Self::Batch => "batch-layer",
        }
    }
}

/// The programs and the shim, built.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    shim: PathBuf,
}

impl Programs {
    /// Builds the shim, and from within a test, which cargo started, the programs too: a test alone does not build them.
    ///
    /// # Errors
    /// There is no C compiler, or a program is not there.
    pub fn build() -> Result<Self> {
        let this = std::env::current_exe().context("where this program is")?;
        let mut folder = this.parent().context("a program lies in a folder")?.to_owned();
        if folder.ends_with("deps") {
            folder.pop();
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built = std::process::Command::new(cargo).args(["build", "--workspace", "--bins", "--quiet"]).status()?;
            ensure!(built.success(), "cargo build --workspace --bins");
        }
        for role in [Role::Speed, Role::Serving, Role::Batch] {
            ensure!(folder.join(role.program()).exists(), "{} is not in {}", role.program(), folder.display());
        }
        let shim_folder = folder.join(format!("shim-{}", std::process::id()));
        std::fs::create_dir_all(&shim_folder)?;
        Ok(Self { shim: shim::build(&shim_folder)?, folder })
    }
}

/// A data folder and its servers' addresses. Nothing runs until it is started.
#[derive(Clone, Debug)]
pub struct World {
    programs: Programs,
    /// Log, dead letters and store are in it, and nothing else.
    pub data: PathBuf,
    logs: PathBuf,
    speed_port: u16,
    serving_port: u16,
    settings: Vec<(String, String)>,
}

impl World {
    /// A world whose data is in `folder/data`; a folder that is there already is taken as it is.
    ///
    /// # Errors
    /// No port is free, or the folder cannot be made.
    pub fn new(programs: &Programs, folder: &Path) -> Result<Self> {
        let (data, logs) = (folder.join("data"), folder.join("logs"));
        std::fs::create_dir_all(&data)?;
        std::fs::create_dir_all(&logs)?;
        let (speed_port, serving_port) = (free_port()?, free_port()?);
        let mut world = Self { programs: programs.clone(), data, logs, speed_port, serving_port, settings: Vec::new() };
        let text = |path: PathBuf| path.display().to_string();
        world.set("STORE__URL", text(world.data.join("store")));
        world.set("LOG__DIR", text(world.data.clone()));
        world.set("LOG__SEGMENT_BYTES", "256KiB");
        world.set("VIEWS__DIR", text(folder.join("views")));
        world.set("SPEED_LAYER__GRPC_ADDRESS", format!("127.0.0.1:{speed_port}"));
        world.set("SPEED_LAYER__POLL_INTERVAL", "100ms");
        world.set("BATCH_LAYER__SPEED_LAYER", world.speed_url());
        // A killed run's successor waits so long, and a stopped one has lost its lease when it goes on.
        world.set("BATCH_LAYER__LEASE_TTL", "1s");
        // So wide that nothing is trimmed, unless a run sets another.
        world.set("LOG__DEDUP_WINDOW_ROWS", u32::MAX);
        world.set("SERVING_LAYER__GRPC_ADDRESS", format!("127.0.0.1:{serving_port}"));
        world.set("SERVING_LAYER__SPEED_LAYER", world.speed_url());
        // Nobody asks there.
        world.set("SPEED_LAYER__HTTP_ADDRESS", "");
        world.set("SERVING_LAYER__HTTP_ADDRESS", "");
        world.set("SERVING_LAYER__POLL_INTERVAL", "100ms");
        Ok(world)
    }

    /// Sets `MERGANSER_…` for what is started from now on.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.settings.push((format!("MERGANSER_{name}"), value.to_string()));
    }

    /// Starts one of the programs; a server need not listen yet when this returns.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, role: Role, shim: &Shim) -> Result<Process> {
        self.start_with(role, shim, None)
    }

    /// As [`World::start`], with so many file handles.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_with(&self, role: Role, shim: &Shim, file_handles: Option<u32>) -> Result<Process> {
        let shim = shim.environment(&self.programs.shim, &self.data).into_iter().map(|(name, value)| (name.to_owned(), value));
        Process::start(Start {
            program: &self.programs.folder.join(role.program()),
            arguments: if role == Role::Batch { &["run"] } else { &["serve"] },
            environment: self.settings.iter().cloned().chain(shim).collect(),
            log: self.logs.join(format!("{}.log", role.program())),
            folder: &self.logs,
            file_handles,
        })
    }

    /// The speed layer's address.
    #[must_use]
    pub fn speed_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.speed_port)
    }

    /// A client of the speed layer with a connection of its own, which comes back when the server does.
    #[must_use]
    pub fn ingest(&self) -> IngestServiceClient<Channel> {
        IngestServiceClient::new(channel(self.speed_port))
    }

    /// A client of the serving layer, likewise.
    #[must_use]
    pub fn stats(&self) -> UserStatsServiceClient<Channel> {
        UserStatsServiceClient::new(channel(self.serving_port))
    }

    /// Waits until the speed layer takes events.
    ///
    /// # Errors
    /// It ends, or does not within a minute.
    pub async fn wait_for_speed(&self, speed: &mut Process) -> Result<()> {
        let client = self.ingest();
        until_or_ended(speed, || {
            let mut client = client.clone();
            async move { client.append_events(AppendEventsRequest::default()).await.is_ok() }
        })
        .await
        .context("speed-layer")
    }

    /// Waits until the serving layer gives fresh answers, of this version at least.
    ///
    /// # Errors
    /// It ends, or does not within a minute.
    pub async fn wait_for_serving(&self, serving: &mut Process, version: i64) -> Result<()> {
        let client = self.stats();
        until_or_ended(serving, || {
            let mut client = client.clone();
            let question = GetUserStatsRequest { user_id: "nobody".to_owned(), ..GetUserStatsRequest::default() };
            async move {
                let answered = client.get_user_stats(question).await.ok().and_then(|answer| answer.into_inner().provenance);
                answered.is_some_and(|provenance| provenance.version >= version)
            }
        })
        .await
        .context("serving-layer")
    }

    /// Runs the batch layer to its end; the answer is its exit code, or none if it was killed.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn batch_run(&self, shim: &Shim) -> Result<Option<i32>> {
        let mut batch = self.start(Role::Batch, shim)?;
        Ok(batch.ended().await?.code())
    }

    /// What a program has printed and logged so far.
    #[must_use]
    pub fn log_of(&self, role: Role) -> String {
        let bytes = std::fs::read(self.logs.join(format!("{}.log", role.program()))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The lines that a program logged at ERROR.
    #[must_use]
    pub fn errors_logged(&self, role: Role) -> Vec<String> {
        let text = self.log_of(role);
        text.lines().filter(|line| line.contains(" ERROR ") || line.contains("panicked")).map(str::to_owned).collect()
    }
}

fn channel(port: u16) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).expect("an address is a URL");
    endpoint.timeout(CALL_PATIENCE).connect_timeout(CONNECT_PATIENCE).connect_lazy()
}

fn free_port() -> Result<u16> {
    let mut random = rand::rng();
    for _ in 0..1000 {
        let port = random.random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

/// Polls for a condition for a minute, and no longer than the process lives.
async fn until_or_ended<F: Future<Output = bool>>(process: &mut Process, mut holds: impl FnMut() -> F) -> Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        tokio::select! {
            held = holds() => if held { return Ok(()) },
            ended = process.ended() => bail!("it ended with {}\n{}", ended?, process.last_words()),
        }
        ensure!(Instant::now() < deadline, "it was not ready within {START_PATIENCE:?}\n{}", process.last_words());
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
