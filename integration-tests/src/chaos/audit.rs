//! What must hold once everything is answered: for every user, partition and refused row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::PoisonError;

use anyhow::{Context, Result, ensure};
use merganser_proto::v1::{BatchGetUserStatsRequest, Consistency, Provenance};
use storage::log::LogFolder;
use storage::{dead_letter, record};
use views::EventSchema;

use super::loader::{Shared, event_id, user_id};
use super::model::{Sums, Wrong};
use super::reader;
use super::world::Role;

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

/// An event as the log has it: user, event, amount in ten-thousandths, time.
pub type Logged = (String, String, i64, i64);

/// The events of every partition. The folder is opened as a server opens it, so a torn tail is cut.
///
/// # Errors
/// The log is damaged.
pub fn read_log(data: &Path) -> Result<Vec<Vec<Logged>>> {
    let folder = LogFolder::open(data, PARTITIONS)?;
    let schema = EventSchema::default();
    let mut partitions = Vec::new();
    for partition in 0..PARTITIONS {
        let reader = folder.partition(partition)?.reader();
        let mut events = Vec::new();
        for entry in reader.read(0..reader.head())? {
            let entry = entry?;
            let (event, _) = record::decode(&entry.payload, partition as i32, entry.offset, &schema)?;
            let amount = event.amount.and_then(|amount| i64::try_from(amount).ok()).context("an amount that was never sent")?;
            events.push((event.user_id, event.event_id, amount, event.event_time_us));
        }
        partitions.push(events);
    }
    Ok(partitions)
}

/// The log has every event that was sent, once, and its partitions are as long as what they hold is different. The servers
/// must be stopped.
///
/// # Errors
/// The log is damaged.
pub fn log_is_whole(shared: &Shared) -> Result<u64> {
    let partitions = read_log(&shared.world.data)?;
    let mut found = BTreeMap::new();
    for (partition, events) in partitions.iter().enumerate() {
        let distinct: BTreeSet<_> = events.iter().map(|(user, event, ..)| (user, event)).collect();
        if distinct.len() != events.len() {
            let what = format!("partition {partition} has {} records of {} events", events.len(), distinct.len());
            shared.figures.wrong(Wrong::Twice, what);
        }
        for (user, event, amount, time) in events {
            found.insert((user.clone(), event.clone()), (*amount, *time, partition));
        }
    }
    let mut sent = 0;
    for user in 0..shared.model.users() {
        for (number, event) in shared.model.events(user).iter().enumerate() {
            sent += 1;
            match found.remove(&(user_id(user), event_id(number))) {
                None => shared.figures.wrong(Wrong::Lost, format!("{} of {} is not in the log", event_id(number), user_id(user))),
                Some((amount, time, _)) if (amount, time) != (event.amount, event.time_us) => {
                    shared.figures.wrong(Wrong::Unexplained, format!("{} of {} has other content", event_id(number), user_id(user)));
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
