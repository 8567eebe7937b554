//! What must hold once everything is answered: for every user, partition and refused row.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use anyhow::{Context, Result, bail, ensure};
use merganser_proto::v1::{BatchGetUserStatsRequest, Consistency, Provenance};
use storage::dead_letter;
use storage::log::LogFolder;
use storage::record::{self, Record};
use views::EventSchema;

use super::loader::{Shared, event_id, user_id};
use super::model::{Sums, Wrong};
use super::reader;
use super::world::Role;
use crate::plain_fold;

/// Users of one question.
const MANY: usize = 100;
/// The default of `log.partitions`, which no run changes.
pub const PARTITIONS: u32 = 4;

/// Every user's answer.
///
/// # Errors
/// There is none.
pub async fn all_users(shared: &Shared, consistency: Consistency) -> Result<(Vec<Sums>, Vec<Provenance>)> {
    let mut client = shared.world.stats();
    let (mut all, mut provenances) = (Vec::new(), Vec::new());
    let users: Vec<String> = (0..shared.model.users()).map(user_id).collect();
    for user_ids in users.chunks(MANY) {
        let request = BatchGetUserStatsRequest {
            user_ids: user_ids.to_vec(),
            consistency: consistency.into(),
            ..BatchGetUserStatsRequest::default()
        };
        let answer = client.batch_get_user_stats(request).await?.into_inner();
        for stats in &answer.stats {
            all.push(reader::sums(stats)?);
        }
        provenances.push(answer.provenance.context("no provenance")?);
    }
    Ok((all, provenances))
}

/// Every user's answer equals the model, in which nothing is open any more.
///
/// # Errors
/// There is no answer, or something is open.
pub async fn equal_for_all(shared: &Shared, consistency: Consistency) -> Result<Vec<Provenance>> {
    let (answers, provenances) = all_users(shared, consistency).await?;
    for (user, answer) in answers.iter().enumerate() {
        let (expected, open) = shared.model.settled(user);
        ensure!(open == 0, "{open} events of {} were never answered", user_id(user));
        shared.figures.answers.one();
        if *answer != expected {
            let kind = match answer.count - expected.count {
                ..=-1 => Wrong::Lost,
                1.. => Wrong::Twice,
                0 => Wrong::Unexplained,
            };
            shared.figures.wrong(kind, format!("at the end, {consistency:?}, {}: {answer:?}, expected {expected:?}", user_id(user)));
        }
    }
    Ok(provenances)
}

/// An event as it was kept. A long run has tens of millions, so the names are the numbers they were made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// User and event.
    pub identity: (u32, u32),
    /// Ten-thousandths.
    pub amount: i64,
    /// Microseconds since 1970.
    pub time_us: i64,
}

impl Kept {
    fn new(user: &str, event: &str, amount: Option<i128>, time_us: i64) -> Result<Self> {
        let number = |name: &str, prefix: &str| name.strip_prefix(prefix)?.parse().ok();
        let identity = number(user, "user-").zip(number(event, "e")).with_context(|| format!("{event:?} of {user:?} was never sent"))?;
        let amount = amount.and_then(|amount| i64::try_from(amount).ok()).context("an amount that was never sent")?;
        Ok(Self { identity, amount, time_us })
    }
}

/// The events of every partition that were not trimmed, by offset. The folder is opened as a server opens it, so a torn tail is cut.
fn read_log(data: &Path) -> Result<Vec<BTreeMap<i64, Kept>>> {
    let folder = LogFolder::open(data, PARTITIONS)?;
    let schema = EventSchema::default();
    let mut partitions = Vec::new();
    for partition in 0..PARTITIONS {
        let reader = folder.partition(partition)?.reader();
        let mut events = BTreeMap::new();
        for entry in reader.read(reader.start()..reader.head())? {
            let entry = entry?;
            let record = record::decode(&entry.payload, partition as i32, entry.offset, &schema)?;
            let Record::Event(event, _) = record else { bail!("record {} of partition {partition} is no event", entry.offset) };
            events.insert(entry.offset, Kept::new(&event.user_id, &event.event_id, event.amount, event.event_time_us)?);
        }
        partitions.push(events);
    }
    Ok(partitions)
}

/// The events of every partition by offset: what the log still has, and below that the sealed Parquet files that took its place.
/// Where there are both they must be the same. The files of a partition must follow each other from the first offset on.
///
/// # Errors
/// They are damaged, contradict each other, or leave something out.
pub fn read_log_and_archive(data: &Path) -> Result<Vec<Vec<Kept>>> {
    let mut partitions = read_log(data)?;
    let mut ends = [0; PARTITIONS as usize];
    for (partition, range, path) in sealed_files(&data.join("store/master/events"))? {
        let end = std::mem::replace(&mut ends[partition], range.end);
        ensure!(range.start == end, "{} does not follow {end}", path.display());
        for (offset, event) in (range.start..).zip(plain_fold::rows(&path)?) {
            let event = event?.with_context(|| format!("{}: no event at {offset}", path.display()))?;
            ensure!(offset < range.end, "{} goes on at {offset}", path.display());
            let archived = Kept::new(&event.user_id, &event.event_id, event.amount, event.time_us)?;
            let logged = partitions[partition].entry(offset).or_insert(archived);
            ensure!(*logged == archived, "offset {offset} of partition {partition}: {logged:?} in the log, {archived:?} in the archive");
        }
    }
    for (partition, events) in partitions.iter().enumerate() {
        let hole = (0..).zip(events.keys()).find(|(expected, offset)| expected != *offset);
        ensure!(hole.is_none(), "partition {partition}: {hole:?}, the offset expected and the one that is there");
    }
    Ok(partitions.into_iter().map(|events| events.into_values().collect()).collect())
}

/// How many records the log has let go.
///
/// # Errors
/// It is damaged.
pub fn trimmed_records(data: &Path) -> Result<i64> {
    let folder = LogFolder::open(data, PARTITIONS)?;
    (0..PARTITIONS).map(|partition| Ok(folder.partition(partition)?.reader().start())).sum()
}

/// The sealed Parquet files of every day, by partition and offset: only they are archived. None before the first is there.
fn sealed_files(events: &Path) -> Result<Vec<(usize, Range<i64>, PathBuf)>> {
    let mut files = Vec::new();
    if !events.exists() {
        return Ok(files);
    }
    for day in std::fs::read_dir(events).with_context(|| events.display().to_string())? {
        for file in std::fs::read_dir(day?.path())? {
            let path = file?.path();
            // p0000-00000000000000000000-00000000000000100000.seal.json, beside ….parquet
            let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
            let Some(name) = name.strip_suffix(".seal.json") else { continue };
            let [partition, start, end] = name.trim_start_matches('p').splitn(3, '-').collect::<Vec<_>>()[..] else { bail!("{name}") };
            files.push((partition.parse()?, start.parse()?..end.parse()?, path.with_file_name(format!("{name}.parquet"))));
        }
    }
    files.sort_by_key(|(partition, range, _)| (*partition, range.start));
    Ok(files)
}

/// Log and archive have every event that was sent, once, and its partitions are as long as what they hold is different. The
/// servers must be stopped.
///
/// # Errors
/// The log or the archive is damaged, or they contradict each other.
pub fn log_is_whole(shared: &Shared) -> Result<u64> {
    let partitions = read_log_and_archive(&shared.world.data)?;
    let mut found = BTreeMap::new();
    for (partition, events) in partitions.iter().enumerate() {
        let before = found.len();
        found.extend(events.iter().map(|kept| (kept.identity, *kept)));
        let distinct = found.len() - before;
        if distinct != events.len() {
            let what = format!("partition {partition} has {} records of {distinct} events", events.len());
            shared.figures.wrong(Wrong::Twice, what);
        }
    }
    let mut sent = 0;
    for user in 0..shared.model.users() {
        for (number, event) in shared.model.events(user).iter().enumerate() {
            sent += 1;
            let name = || format!("{} of {}", event_id(number), user_id(user));
            match found.remove(&(user as u32, number as u32)) {
                None => shared.figures.wrong(Wrong::Lost, format!("{} is not in the log", name())),
                Some(kept) if (kept.amount, kept.time_us) != (event.amount, event.time_us) => {
                    shared.figures.wrong(Wrong::Unexplained, format!("{} has other content", name()));
                }
                Some(_) => {}
            }
        }
    }
    if let Some((identity, _)) = found.first_key_value() {
        shared.figures.wrong(Wrong::Unexplained, format!("{} events that were never sent, such as {identity:?}", found.len()));
    }
    Ok(sent)
}

/// The dead letters, user, event and amount of each, once.
///
/// # Errors
/// They are damaged, or one is kept twice.
pub fn read_letters(data: &Path) -> Result<BTreeSet<(String, String, String)>> {
    let mut kept = BTreeSet::new();
    for letter in dead_letter::read_all(data)? {
        let (id, letter) = letter?;
        let text = |field: &str| letter.event.get(field).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
        ensure!(kept.insert((text("user_id"), text("event_id"), text("amount"))), "the dead letter {id} is kept twice");
    }
    Ok(kept)
}

/// Every row that was refused is kept, once, and nothing else is. The speed layer must be stopped.
///
/// # Errors
/// The dead letters are damaged.
pub fn dead_letters_are_whole(shared: &Shared) -> Result<usize> {
    let kept = read_letters(&shared.world.data)?;
    let refused: BTreeSet<_> = shared.refused.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
    for lost in refused.difference(&kept) {
        shared.figures.wrong(Wrong::Lost, format!("the refused row {lost:?} is not kept"));
    }
    for extra in kept.difference(&refused) {
        shared.figures.wrong(Wrong::Unexplained, format!("{extra:?} is kept, but was not refused"));
    }
    Ok(kept.len())
}

/// Every run that said it published is the one that its version names, and no version was published by two.
///
/// # Errors
/// A manifest cannot be read.
pub fn publishes_are_kept(shared: &Shared) -> Result<usize> {
    let mut published = BTreeMap::new();
    for line in shared.world.log_of(Role::Batch).lines() {
        // published   user_stats v3  (20261121T181530123Z-0a1b2c3d)
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["published", "user_stats", version, run] = words[..] else { continue };
        let number: i64 = version.trim_start_matches('v').parse().context("a version is a number")?;
        let run = run.trim_matches(['(', ')']).to_owned();
        if let Some(other) = published.insert(number, run.clone()) {
            shared.figures.wrong(Wrong::Twice, format!("version {number} was published by {other} and by {run}"));
        }
    }
    for (version, run) in &published {
        let path = shared.world.data.join(format!("store/views/user_stats/manifests/{version:020}.json"));
        let manifest = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        if !manifest.contains(run.as_str()) {
            shared.figures.wrong(Wrong::Lost, format!("version {version} was published by {run}, and is another's now"));
        }
    }
    Ok(published.len())
}
