//! One answer as it is given now, counted again from the raw events: the newest version and what the speed layer folded since, each
//! half by itself and both together.
//!
//! It is the batch layer that counts, and not the serving layer that is asked: raw events are its own, the serving layer has only
//! states, and folding at question time is what the system is there to avoid. The numbers are the same ones: the files that the
//! serving layer reads, and the slices that it asks the speed layer for.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use storage::batch_view::{BlockCache, OpenView};
use storage::manifest::{Manifest, Manifests};
use storage::master;
use storage::store::Store;
use views::{Definition, fold, key, shard_of, shard_of_key};

use crate::audit::{Differences, Halves, Live};
use crate::cut::Cut;
use crate::definition::{kept_from, of_version};
use crate::error::RunError;
use crate::hidden::Hidden;
use crate::options::RunOptions;
use crate::piece::{Master, Piece};
use crate::progress::Progress;
use crate::run::on_blocking_thread;
use crate::service::{Exported, SpeedLayer};
use crate::source::{EventColumns, Source};
use crate::table::lines;

/// Keys that are shown; all are compared.
const SHOWN_KEYS: usize = 20;

/// An answer beside the count of its raw events.
#[derive(Clone, Debug)]
pub struct Recount {
    /// The version that answers.
    pub manifest: Manifest,
    /// Up to which offset the raw events of each partition were counted, exclusive.
    pub cut: Vec<i64>,
    /// Raw events that were read.
    pub rows_read: i64,
    /// Raw events of the keys from the boundary on that repeat an earlier one: the speed layer may count them until the next run.
    pub repeats: i64,
    /// Keys that were compared.
    pub keys_compared: i64,
    /// Where the answer is not what the raw events make.
    pub differences: Differences,
    /// A header and six rows for each of the first keys: key, half, who counted, and the measures over all buckets; `-` where there is none.
    pub table: Vec<Vec<String>>,
}

impl Recount {
    /// Whether the answer is what the raw events make.
    ///
    /// # Errors
    /// [`RunError::UnlikeNow`] if it is not.
    pub fn verdict(&self) -> Result<(), RunError> {
        if self.differences.keys == 0 {
            return Ok(());
        }
        let (view, version, repeats) = (self.manifest.view.to_string(), self.manifest.version, self.repeats);
        Err(RunError::UnlikeNow { view, version, repeats, differences: Box::new(self.differences.clone()) })
    }
}

/// Counts the raw events of the keys of the view of `options` whose first column is `first`, and compares them with what its newest
/// version and the speed layer say now; `None` if there is no version yet. Publishes nothing; the speed layer makes a cut.
///
/// # Errors
/// There is no speed layer, or it cannot be reached; a damaged file, by name; [`RunError::NotRecounted`] while the two halves cannot be compared.
/// That they differ is no error here: see [`Recount::verdict`].
pub async fn recount(options: &RunOptions, store: &Store, first: &str, progress: Arc<dyn Progress>) -> Result<Option<Recount>, RunError> {
    let Some(url) = &options.speed_layer else { return Err(RunError::NoSpeedLayer) };
    let Some(manifest) = Manifests::new(store.clone(), options.view.clone()).latest().await? else { return Ok(None) };
    if manifest.withdrawn {
        return Err(RunError::NotPublished { view: options.view.to_string() });
    }
    let definition = Arc::new(of_version(store, &manifest).await?);
    let kept_from = kept_from(&definition, manifest.as_of)?;
    let mut speed = SpeedLayer::connect(url, &options.tls, &options.client, "; without it nobody knows what is answered now").await?;
    let cut = speed.cut().await?;
    cut.check_follows(&manifest)?;
    let master = Master::around(master::list_segments(store).await?, store, &cut.boundary).await?;
    let (store, longer, first) = (store.clone(), key::prefix([Some(first)]), key::encode([Some(first)]));
    let asked = Asked { store, definition, manifest, kept_from, speed, cut, master, first, longer, progress: Arc::clone(&progress) };
    let recounted = Box::pin(on_blocking_thread(asked.recount())).await;
    progress.end();
    recounted.map(Some)
}

/// What is to be counted.
struct Asked {
    store: Store,
    definition: Arc<Definition>,
    manifest: Manifest,
    kept_from: Option<i64>,
    speed: SpeedLayer,
    cut: Cut,
    master: Master,
    /// The first column, as it stands in keys.
    first: String,
    /// What keys of more columns begin with.
    longer: String,
    progress: Arc<dyn Progress>,
}

impl Asked {
    async fn recount(self) -> Result<Recount, RunError> {
        let live = Live { definition: &self.definition, first: self.first.clone(), kept_from: self.kept_from };
        let failed = |source| RunError::Fold { partition: self.shard(), source };
        let answered = self.answered(&live).await?;
        let sources = self.sources()?;
        let rows_read = sources.iter().flat_map(|source| &source.pieces).map(Piece::rows).sum();
        self.progress.begin(rows_read as u64);
        let (mut folded, mut repeats) = (Halves::none(&self.definition), 0);
        for source in &sources {
            let (more, repeated) = live.folded_again(source, self.manifest.boundary[source.partition as usize]).await?;
            folded.batch = fold::merge(&self.definition, [&folded.batch, &more.batch]).map_err(failed)?;
            folded.speed = fold::merge(&self.definition, [&folded.speed, &more.speed]).map_err(failed)?;
            repeats += repeated;
        }
        let (keys_compared, differences) = live.compare(&answered, &folded).map_err(failed)?;
        let table = table(&live, &answered, &folded).map_err(failed)?;
        Ok(Recount { manifest: self.manifest, cut: self.cut.boundary, rows_read, repeats, keys_compared, differences, table })
    }

    /// Where the keys lie in the view.
    fn shard(&self) -> u32 {
        shard_of_key(&self.first, self.manifest.shards())
    }

    /// The partitions of the log that may have events of the keys.
    fn partitions(&self) -> Vec<u32> {
        let partitions = self.cut.boundary.len() as u32;
        if self.definition.is_by_user() { vec![shard_of(&self.first, partitions)] } else { (0..partitions).collect() }
    }

    /// What the serving layer would merge now.
    async fn answered(&self, live: &Live<'_>) -> Result<Halves, RunError> {
        let failed = |source| RunError::Fold { partition: self.shard(), source };
        let mut answered = Halves::none(&self.definition);
        let mut erased_in_speed_layer = false;
        for partition in self.partitions() {
            let range = self.manifest.boundary[partition as usize]..self.cut.boundary[partition as usize];
            if range.is_empty() {
                continue;
            }
            let mut speed = self.speed.clone();
            match speed.export(&self.manifest.view, &self.definition, &self.cut.log_id, partition, range).await? {
                Exported::NotHeld(reason) => {
                    return Err(self.not_recounted(format!("{reason}; if a newer one was published meanwhile, ask again")));
                }
                Exported::States { states, erased } => {
                    erased_in_speed_layer |= erased.contains(&self.first);
                    let states = live.of_keys(&states).map_err(failed)?;
                    answered.speed = fold::merge(&self.definition, [&answered.speed, &states]).map_err(failed)?;
                }
            }
        }
        let since = self.master.erasures.from(&self.manifest.boundary);
        let is_erased = since.of_user(&self.first).is_some();
        match self.definition.is_by_user() {
            true if erased_in_speed_layer && !is_erased => {
                return Err(self.not_recounted("the user was erased meanwhile; ask again".to_owned()));
            }
            // What the version counts of them is not answered any more.
            true if is_erased => return Ok(answered),
            false if !since.is_empty() => {
                let reason = "users were erased since, whom a view by another key counts until its next run: `batch-layer run` first";
                return Err(self.not_recounted(reason.to_owned()));
            }
            _ => {}
        }
        let version = OpenView::open(&self.store, self.manifest.clone(), &BlockCache::new(0)).await?;
        let mut rows = version.rows(self.shard(), &self.first).await?;
        rows.extend(version.rows_beginning(self.shard(), &self.longer).await?);
        let rows = rows.iter().map(|rows| live.of_keys(rows)).collect::<Result<Vec<RecordBatch>, _>>().map_err(failed)?;
        answered.batch = fold::merge(&self.definition, &rows).map_err(failed)?;
        Ok(answered)
    }

    /// The raw events that the answer is made of.
    fn sources(&self) -> Result<Vec<Source>, RunError> {
        let imports = self.master.imports_of(&self.manifest.imports)?;
        let chains = self.cut.chains(&self.master.segments)?;
        let (columns, hidden) = (Arc::new(EventColumns::new(&self.definition)), Hidden::by(&self.master.erasures));
        let sources = Source::of_chains(&self.store, &columns, &imports, chains, &hidden, &self.progress);
        let partitions = self.partitions();
        Ok(sources.into_iter().filter(|source| partitions.contains(&source.partition)).collect())
    }

    fn not_recounted(&self, reason: String) -> RunError {
        RunError::NotRecounted { view: self.manifest.view.to_string(), version: self.manifest.version, reason }
    }
}

/// Each key of the first ones, in six lines: two of each half and two of both.
fn table(live: &Live<'_>, answered: &Halves, folded: &Halves) -> Result<Vec<Vec<String>>, views::FoldError> {
    let measures = live.definition.output_schema().fields().iter().skip(3).map(|field| field.name().clone());
    let header = ["key", "half", "counted by"].map(str::to_owned);
    let whole = [answered.whole(live.definition)?, folded.whole(live.definition)?];
    let parts = [
        ("batch", "the version", live.shown(&answered.batch)?),
        ("", "raw events", live.shown(&folded.batch)?),
        ("speed", "the speed layer", live.shown(&answered.speed)?),
        ("", "raw events", live.shown(&folded.speed)?),
        ("answer", "both", live.shown(&whole[0])?),
        ("", "raw events", live.shown(&whole[1])?),
    ];
    let keys: std::collections::BTreeSet<&String> = parts.iter().flat_map(|(_, _, rows)| rows).map(|(key, _)| key).collect();
    let mut table = vec![header.into_iter().chain(measures).collect::<Vec<_>>()];
    let nothing = vec!["-".to_owned(); live.definition.output_schema().fields().len() - 3];
    for key in keys.into_iter().take(SHOWN_KEYS) {
        for (half, by, rows) in &parts {
            let of_key = rows.iter().find(|(of, _)| of == key).map_or(&nothing, |(_, measures)| measures);
            let name = if *half == "batch" { key::for_people(key) } else { String::new() };
            table.push([name, (*half).to_owned(), (*by).to_owned()].into_iter().chain(of_key.iter().cloned()).collect());
        }
    }
    Ok(table)
}

/// What a person is told who asks why an answer is what it is.
impl fmt::Display for Recount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { manifest, cut, rows_read, repeats, keys_compared, differences, table } = self;
        let offsets = |offsets: &[i64]| offsets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        writeln!(f, "view        {} v{}", manifest.view, manifest.version)?;
        writeln!(f, "boundary    {}", offsets(&manifest.boundary))?;
        writeln!(f, "up to       {}", offsets(cut))?;
        writeln!(f, "raw events  {rows_read} read; of those that are counted here {repeats} from the boundary on repeat an earlier one")?;
        if *keys_compared == 0 && differences.keys == 0 {
            return write!(f, "nothing has this key, in the answer and in the raw events");
        }
        writeln!(f, "{}", lines(table))?;
        match differences.keys {
            0 => write!(f, "{keys_compared} keys, each equal to a fold of the raw events"),
            differing => write!(f, "{differing} keys are not what a fold of the raw events makes"),
        }
    }
}
