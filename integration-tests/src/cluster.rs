//! Three real servers in one process: speed and serving layer on free ports, batch runs called, all over one folder.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use batch_layer::import::ImportOptions;
use batch_layer::progress::Silent;
use batch_layer::{RunOptions, RunOutcome};
use merganser_proto::server::Doors;
use merganser_proto::v1::ingest_service_client::IngestServiceClient;
use merganser_proto::v1::realtime_view_service_client::RealtimeViewServiceClient;
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::view_service_client::ViewServiceClient;
use merganser_proto::v1::{AppendEventsRequest, Consistency, CutRequest, EraseUserRequest, GetUserStatsRequest, GetViewRowsRequest};
use storage::config::{Config, Period, TlsConfig};
use storage::store::Store;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::certificates::of_tonic;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Servers look for a new version so often.
const VERSION_INTERVAL: Duration = Duration::from_millis(20);

/// Speed layer, serving layer, their clients and their folder.
pub struct Cluster {
    config: Config,
    store: Store,
    speed: Server,
    serving: Server,
    /// Of the speed layer.
    pub ingest: IngestServiceClient<Channel>,
    /// Of the serving layer.
    pub stats: UserStatsServiceClient<Channel>,
    /// Of the serving layer.
    pub views: ViewServiceClient<Channel>,
    realtime: RealtimeViewServiceClient<Channel>,
    folder: TempDir,
    /// Batch runs that were started.
    runs: AtomicUsize,
}

/// A server on an address that it keeps over restarts.
struct Server {
    address: SocketAddr,
    /// Of metrics and health; another one after each start.
    http: Option<SocketAddr>,
    running: Option<(CancellationToken, JoinHandle<Result<()>>)>,
}

impl Server {
    /// A free address; nothing runs there yet.
    async fn reserve() -> Result<(Self, TcpListener)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Ok((Self { address: listener.local_addr()?, http: None, running: None }, listener))
    }

    fn url(&self, tls: &TlsConfig) -> String {
        tls.url_of(&self.address.to_string())
    }

    /// A free address for metrics and health.
    async fn tell(&mut self) -> Result<TcpListener> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        self.http = Some(listener.local_addr()?);
        Ok(listener)
    }

    fn channel(&self, tls: &TlsConfig) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(self.url(tls))?.timeout(PATIENCE);
        let endpoint = if tls.server().is_some() { endpoint.tls_config(of_tonic(tls)?)? } else { endpoint };
        Ok(endpoint.connect_lazy())
    }

    fn run<E>(&mut self, serve: impl FnOnce(CancellationToken) -> BoxedServer<E>)
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let shutdown = CancellationToken::new();
        let server = serve(shutdown.clone());
        self.running = Some((shutdown, tokio::spawn(async move { server.await.map_err(anyhow::Error::new) })));
    }

    async fn stop(&mut self) -> Result<()> {
        let (shutdown, task) = self.running.take().context("the server is not running")?;
        shutdown.cancel();
        tokio::time::timeout(PATIENCE, task).await.context("the server did not stop")??
    }
}

type BoxedServer<E> = std::pin::Pin<Box<dyn Future<Output = Result<(), E>> + Send>>;

impl Cluster {
    /// Starts both servers over an empty folder. `adjust` changes the settings first. Where they have `[tls]`, everybody speaks it.
    ///
    /// # Errors
    /// What keeps a server from starting.
    pub async fn start(store_in_memory: bool, adjust: impl FnOnce(&mut Config)) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let url = if store_in_memory { "memory://".to_owned() } else { folder.path().join("store").display().to_string() };
        let (speed, speed_listener) = Server::reserve().await?;
        let (serving, serving_listener) = Server::reserve().await?;
        let mut config = Config::default();
        config.store.url.clone_from(&url);
        config.log.dir = folder.path().join("data");
        config.views.dir = folder.path().join("views");
        config.speed_layer.poll_interval = Period(VERSION_INTERVAL);
        config.serving_layer.poll_interval = Period(VERSION_INTERVAL);
        adjust(&mut config);
        let tls = config.tls.clone();
        config.serving_layer.speed_layer = speed.url(&tls);
        config.batch_layer.speed_layer = speed.url(&tls);
        let mut cluster = Self {
            store: Store::open(&url)?,
            ingest: IngestServiceClient::new(speed.channel(&tls)?),
            realtime: RealtimeViewServiceClient::new(speed.channel(&tls)?),
            stats: UserStatsServiceClient::new(serving.channel(&tls)?),
            views: ViewServiceClient::new(serving.channel(&tls)?),
            config,
            speed,
            serving,
            folder,
            runs: AtomicUsize::new(0),
        };
        cluster.run_speed(speed_listener).await?;
        cluster.run_serving(serving_listener).await?;
        Ok(cluster)
    }

    /// The folder of log and dead letters.
    #[must_use]
    pub fn data_dir(&self) -> std::path::PathBuf {
        self.config.log.dir.clone()
    }

    /// A folder that lives as long as the cluster.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The store that the layers share.
    #[must_use]
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Changes the settings of what is started from now on.
    pub fn adjust(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
    }

    /// What connections show and trust.
    #[must_use]
    pub fn tls(&self) -> TlsConfig {
        self.config.tls.clone()
    }

    /// The speed layer's address.
    #[must_use]
    pub fn speed_url(&self) -> String {
        self.speed.url(&self.config.tls)
    }

    /// The serving layer's address.
    #[must_use]
    pub fn serving_address(&self) -> SocketAddr {
        self.serving.address
    }

    /// Where the speed layer tells metrics and health since its last start.
    #[must_use]
    pub fn speed_http(&self) -> Option<SocketAddr> {
        self.speed.http
    }

    /// Where the serving layer tells metrics and health since its last start.
    #[must_use]
    pub fn serving_http(&self) -> Option<SocketAddr> {
        self.serving.http
    }

    async fn run_speed(&mut self, listener: TcpListener) -> Result<()> {
        let (config, store) = (self.config.clone(), self.store.clone());
        let doors = Doors { grpc: listener, http: Some(self.speed.tell().await?), tls: cli::tls::server(&config.tls)? };
        self.speed.run(|shutdown| Box::pin(speed_layer::run_then(config, store, doors, shutdown, || {})));
        let client = &self.ingest;
        until("the speed layer takes events", || {
            let mut client = client.clone();
            async move { client.append_events(AppendEventsRequest::default()).await.is_ok() }
        })
        .await
    }

    async fn run_serving(&mut self, listener: TcpListener) -> Result<()> {
        let (mut config, store) = (self.config.clone(), self.store.clone());
        // It would ask the speed layer how it is, and tests count calls.
        config.console.enabled = false;
        let doors = Doors { grpc: listener, http: Some(self.serving.tell().await?), tls: cli::tls::server(&config.tls)? };
        self.serving.run(|shutdown| Box::pin(serving_layer::run_then(config, store, doors, shutdown, || {})));
        self.wait_for(Consistency::BatchOnly).await
    }

    /// Waits until questions of this consistency are answered.
    async fn wait_for(&self, consistency: Consistency) -> Result<()> {
        until("the serving layer answers", || {
            let mut client = self.stats.clone();
            let question =
                GetUserStatsRequest { user_id: "nobody".to_owned(), consistency: consistency.into(), ..GetUserStatsRequest::default() };
            async move { client.get_user_stats(question).await.is_ok() }
        })
        .await?;
        // Which other views there are is looked at in the background.
        until("the serving layer knows its views", || {
            let mut client = self.views.clone();
            let question = GetViewRowsRequest { view: "nothing".to_owned(), key: "nobody".to_owned(), ..GetViewRowsRequest::default() };
            async move { client.get_view_rows(question).await.is_err_and(|status| status.code() == Code::NotFound) }
        })
        .await
    }

    /// Stops the speed layer.
    ///
    /// # Errors
    /// It does not stop, or had ended with an error.
    pub async fn stop_speed(&mut self) -> Result<()> {
        self.speed.stop().await.context("speed-layer")
    }

    /// Starts the speed layer again and waits until fresh answers are given.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub async fn start_speed(&mut self) -> Result<()> {
        let listener = TcpListener::bind(self.speed.address).await?;
        self.run_speed(listener).await?;
        self.wait_for(Consistency::Fresh).await
    }

    /// Stops the serving layer, starts it again, and waits until fresh answers are given.
    ///
    /// # Errors
    /// What keeps it from stopping or starting.
    pub async fn restart_serving(&mut self) -> Result<()> {
        self.restart_serving_for(Consistency::Fresh).await
    }

    /// [`Self::restart_serving`], which waits for answers of this consistency.
    ///
    /// # Errors
    /// What keeps it from stopping or starting.
    pub async fn restart_serving_for(&mut self, consistency: Consistency) -> Result<()> {
        self.serving.stop().await.context("serving-layer")?;
        let listener = TcpListener::bind(self.serving.address).await?;
        self.run_serving(listener).await?;
        self.wait_for(consistency).await
    }

    /// How this cluster imports files.
    #[must_use]
    pub fn import_options(&self, inputs: Vec<String>) -> ImportOptions {
        ImportOptions::from_config(&self.config, inputs)
    }

    /// Erases a user; gives the partition and the offset of the record.
    ///
    /// # Errors
    /// The speed layer's.
    pub async fn erase(&self, user: &str) -> Result<(i32, i64)> {
        let erased = self.realtime.clone().erase_user(EraseUserRequest { user_id: user.to_owned() }).await.context("erase")?.into_inner();
        Ok((erased.partition, erased.offset))
    }

    /// Seals what there is.
    ///
    /// # Errors
    /// The speed layer's.
    pub async fn cut(&self) -> Result<()> {
        self.realtime.clone().cut(CutRequest {}).await.context("cut")?;
        Ok(())
    }

    /// Starts a batch run on a thread of its own, as the batch layer is a process of its own. It gives the version that was
    /// published, or nothing when there was nothing to do.
    #[must_use]
    pub fn start_batch_run(&self) -> JoinHandle<Result<Option<i64>>> {
        self.start_batch_run_of("user_stats")
    }

    /// [`Self::start_batch_run`] over another view. Two runs of three build upon the version before.
    ///
    /// # Panics
    /// It is not the name of a view.
    #[must_use]
    pub fn start_batch_run_of(&self, view: &str) -> JoinHandle<Result<Option<i64>>> {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        self.start_batch_run_as(view, !number.is_multiple_of(3))
    }

    /// A run over a view that builds upon the version before, or not.
    ///
    /// # Panics
    /// It is not the name of a view.
    #[must_use]
    pub fn start_batch_run_as(&self, view: &str, incremental: bool) -> JoinHandle<Result<Option<i64>>> {
        let view = view.parse().expect("it is the name of a view");
        let options = RunOptions { incremental, ..RunOptions::from_config(&self.config, view) };
        let store = self.store.clone();
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let outcome = runtime.block_on(batch_layer::run(&options, &store, Arc::new(Silent)));
            match outcome.context("batch run")? {
                RunOutcome::Published(report) => Ok(Some(report.version)),
                RunOutcome::NothingToDo(_) => Ok(None),
            }
        })
    }

    /// Publishes an older version of a view again; gives the version that was published.
    ///
    /// # Errors
    /// The rollback's.
    pub async fn rollback(&self, view: &str, version: i64) -> Result<i64> {
        let options = RunOptions::from_config(&self.config, view.parse()?);
        Ok(batch_layer::rollback(&options, &self.store, version).await?.version)
    }

    /// Withdraws a view; gives the version that says so.
    ///
    /// # Errors
    /// The withdrawal's.
    pub async fn withdraw(&self, view: &str) -> Result<i64> {
        let options = RunOptions::from_config(&self.config, view.parse()?);
        Ok(batch_layer::withdraw(&options, &self.store).await?.version)
    }

    /// A batch run from beginning to end.
    ///
    /// # Errors
    /// The run's.
    pub async fn batch_run(&self) -> Result<Option<i64>> {
        self.start_batch_run().await.context("the run panicked")?
    }

    /// Waits until answers come from `version`.
    ///
    /// # Errors
    /// When they do not.
    pub async fn wait_for_version(&self, version: i64) -> Result<()> {
        until("the new version answers", || {
            let mut client = self.stats.clone();
            let question = GetUserStatsRequest { user_id: "nobody".to_owned(), ..GetUserStatsRequest::default() };
            async move {
                let answered = client.get_user_stats(question).await.ok().and_then(|answer| answer.into_inner().provenance);
                answered.is_some_and(|provenance| provenance.version >= version)
            }
        })
        .await
    }

    /// Stops both servers.
    ///
    /// # Errors
    /// One does not stop, or had ended with an error.
    pub async fn stop(mut self) -> Result<()> {
        self.serving.stop().await.context("serving-layer")?;
        self.speed.stop().await.context("speed-layer")
    }
}

/// Polls for a condition, up to a deadline.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        if Instant::now() > deadline {
            bail!("waited {PATIENCE:?} in vain until {what}");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
