//! What a run can end in other than a new version, and the exit code that scripts see.

use datafusion::error::DataFusionError;
use merganser_proto::BearerError;
use merganser_proto::client::{ConnectError, ServerError};
use merganser_proto::tls::TlsError;
use storage::manifest::UnusableDefinition;
use storage::store::StoreError;
use views::{DefinitionError, FoldError};

use crate::audit::{Difference, Differences};
use crate::rows::Rows;

/// Why nothing was published. The old version serves on in every case.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The `.sql` file is not a view.
    #[error("{file}")]
    Definition {
        /// The file.
        file: String,
        /// What is refused, where, and what to write instead.
        #[source]
        source: DefinitionError,
    },
    /// The view has no `.sql` file and is not built in.
    #[error("the view {view} is not declared: there is no {file}, and only user_stats is built in")]
    NoDefinition {
        /// The view.
        view: String,
        /// Where its SQL should be.
        file: String,
    },
    /// Nobody knows the view.
    #[error("there is no view {view}; there are {known}")]
    UnknownView {
        /// As it was given.
        view: String,
        /// Those that are declared or published.
        known: String,
    },
    /// The view was declared once, and its file is gone.
    #[error(
        "{file} is not there, and version {version} was computed from another definition than the built-in one; set [views] dir, or put the file back"
    )]
    DefinitionGone {
        /// Where its SQL should be.
        file: String,
        /// The newest version.
        version: i64,
    },
    /// `events.amount` was changed.
    #[error(
        "events.amount is {here}, and version {version} has amounts of {before}; the type of amount is fixed with the first version: set it back"
    )]
    AmountType {
        /// The newest version.
        version: i64,
        /// Its type.
        before: String,
        /// The type in the settings.
        here: String,
    },
    /// An attribute was given a type that does not hold all of its values as they are.
    #[error(
        "events.attributes.{name} is {here}, and version {version} was computed with {before}, whose values {here} does not all hold as they are; set it back, and declare another name for the new type (docs/schema.md)"
    )]
    AttributeType {
        /// The newest version.
        version: i64,
        /// The attribute.
        name: String,
        /// Its type then.
        before: String,
        /// Its type in the settings.
        here: String,
    },
    /// A file or folder of this machine cannot be used.
    #[error("{path} cannot be used")]
    Local {
        /// The file or folder.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The store has a partition that the settings do not know.
    #[error("the store has segments of partition {found}, but log.partitions is {expected}; set it to what the log was made with")]
    Partitions {
        /// Number of partitions in the settings or the version before.
        expected: u32,
        /// A partition beyond them.
        found: u32,
    },
    /// The address of the speed layer is none.
    #[error("the speed layer cannot be called")]
    SpeedAddress {
        /// What is wrong with it.
        #[source]
        source: ConnectError,
    },
    /// The token of `[client]` cannot be sent.
    #[error(transparent)]
    Token(#[from] BearerError),
    /// The files of `[tls]` cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The speed layer is there, and no connection to it that can be relied upon.
    #[error("{reason}")]
    SpeedNotTrusted {
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The speed layer is configured but does not answer.
    #[error("the speed layer at {url} cannot be reached; start it{otherwise}")]
    SpeedUnreachable {
        /// Its address.
        url: String,
        /// What can be done without it, if anything, or why nothing can.
        otherwise: &'static str,
        /// What the connection said.
        #[source]
        source: ConnectError,
    },
    /// What is asked for is half the speed layer's, and none is named.
    #[error("half of every answer is the speed layer's; name one with --speed-layer or in [batch_layer] speed_layer")]
    NoSpeedLayer,
    /// The speed layer answered a call with an error.
    #[error("the speed layer at {url} failed to {call}")]
    SpeedFailed {
        /// Its address.
        url: String,
        /// What it was asked to do.
        call: &'static str,
        /// Its answer.
        #[source]
        source: ServerError,
    },
    /// The speed layer answered something that cannot be.
    #[error("the speed layer at {url} gave an answer that cannot be: {reason}")]
    SpeedNonsense {
        /// Its address.
        url: String,
        /// What cannot be.
        reason: String,
    },
    /// The version before belongs to another log, so its offsets mean nothing in this one.
    #[error("version {version} was computed from log {expected}, and the speed layer keeps log {found}; nothing can be added to it")]
    OtherLog {
        /// The version before.
        version: i64,
        /// Its log.
        expected: String,
        /// The log at hand.
        found: String,
    },
    /// The cut would give up events that the version before counts.
    #[error("the cut {found:?} is behind the boundary {expected:?} of version {version}; a boundary never goes back but by a rollback")]
    BoundaryBack {
        /// The version before.
        version: i64,
        /// Its boundary.
        expected: Vec<i64>,
        /// The cut.
        found: Vec<i64>,
    },
    /// The object store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Sorting failed, most often for want of memory or of disk to spill to.
    #[error("the events of partition {partition} cannot be sorted")]
    Sort {
        /// The partition.
        partition: u32,
        /// What the sort said.
        #[source]
        source: DataFusionError,
    },
    /// The definition fails on an event.
    #[error("the view fails on event {event_id} at offset {offset} of partition {partition}: {reason}")]
    Event {
        /// The event.
        event_id: String,
        /// Its partition.
        partition: u32,
        /// Its offset.
        offset: i64,
        /// What the SQL said.
        reason: String,
    },
    /// A file in the folder of views is named as no view can be.
    #[error("{file}: rename the file")]
    ViewName {
        /// The file.
        file: String,
        /// How views are named.
        #[source]
        source: StoreError,
    },
    /// `GetUserStats` answers from this view.
    #[error("{file}: user_stats answers questions about one user, so its key is user_id alone; give a view by another key another name")]
    UserStatsKey {
        /// The file.
        file: String,
    },
    /// The definition beside a version cannot be used.
    #[error("version {version} cannot be computed again with its definition")]
    StoredDefinition {
        /// The version.
        version: i64,
        /// What is wrong with it.
        #[source]
        source: UnusableDefinition,
    },
    /// The built-in view cannot be withdrawn.
    #[error("{view} is built in: it is always answered")]
    BuiltIn {
        /// The view.
        view: String,
    },
    /// The next run would publish the view again.
    #[error("{view} is still declared: remove {file} first")]
    StillDeclared {
        /// The view.
        view: String,
        /// Its file.
        file: String,
    },
    /// It is no user.
    #[error("the user cannot be erased: {reason}")]
    UserId {
        /// What is wrong with the id.
        reason: String,
    },
    /// A version that may hold what erasures hide, and a newer one does not.
    #[error(
        "version {version} of {view} was computed before {erasures} {} that version {newest} has carried out, and may hold what is erased; take a later one",
        if *erasures == 1 { "erasure" } else { "erasures" }
    )]
    ErasedSince {
        /// The view.
        view: String,
        /// The version.
        version: i64,
        /// How many.
        erasures: usize,
        /// The newest version.
        newest: i64,
    },
    /// Nobody answers for the view.
    #[error("{view} has no version that is answered")]
    NotPublished {
        /// The view.
        view: String,
    },
    /// There is nothing to go back to.
    #[error(
        "there is no version {version} of {view} to go back to; its newest is {newest}, and `batch-layer versions` lists those before it"
    )]
    NoVersion {
        /// The view.
        view: String,
        /// What was asked for.
        version: i64,
        /// The newest; 0 if there is none.
        newest: i64,
    },
    /// The speed layer has let go of what came after the version.
    #[error("version {version} cannot be answered any more: {reason}; recompute with `batch-layer run` instead")]
    NotAnswerable {
        /// The version.
        version: i64,
        /// What the speed layer said.
        reason: String,
    },
    /// The buckets that a limit keeps cannot be told.
    #[error("the view's bucket fails at the end of what it keeps")]
    Limit {
        /// What the SQL said.
        #[source]
        source: FoldError,
    },
    /// A retention is declared, and the view counts events of any age.
    #[error(
        "[retention] events = \"{retention}\" lets older events go, and {view} keeps its buckets for ever; give it a limit of at most that, such as -- keep: {retention} in {file}"
    )]
    NoLimit {
        /// The view.
        view: String,
        /// Where its SQL is, or should be.
        file: String,
        /// As declared.
        retention: String,
    },
    /// A retention is declared, and the view keeps its buckets longer.
    #[error(
        "[retention] events = \"{retention}\" lets older events go, and {view} keeps its buckets for {keep}; write -- keep: {retention} or less in {file}"
    )]
    LongLimit {
        /// The view.
        view: String,
        /// Where its SQL is.
        file: String,
        /// Its limit.
        keep: String,
        /// As declared.
        retention: String,
    },
    /// The definition counts events that have expired.
    #[error(
        "events before {before} have expired and are gone, and {view} counts events {from}, which would be only some of them; {instead}"
    )]
    BelowFloor {
        /// The view.
        view: String,
        /// The floor.
        before: String,
        /// What it counts.
        from: String,
        /// What can be declared.
        instead: String,
    },
    /// A version counts events that have expired since.
    #[error("version {version} of {view} counts events before {before}, which have expired since and are gone; take a later one")]
    ExpiredSince {
        /// The view.
        view: String,
        /// The version.
        version: i64,
        /// The floor.
        before: String,
    },
    /// The definition fails, on no event alone but on many together.
    #[error("the view fails on events of partition {partition} taken together")]
    Fold {
        /// The partition.
        partition: u32,
        /// What the SQL said.
        #[source]
        source: FoldError,
    },
    /// The definition fails on an event that an erasure hides.
    #[error("the view fails on events that erasures hide, whose keys are to be audited")]
    HiddenKeys {
        /// What the SQL said.
        #[source]
        source: FoldError,
    },
    /// An event is where its user's events are not looked for.
    #[error("event {event_id} at offset {offset} is in partition {partition}, but its user belongs to partition {belongs} of {partitions}")]
    Misplaced {
        /// The event.
        event_id: String,
        /// Its offset.
        offset: i64,
        /// Where it is.
        partition: u32,
        /// Where its user is looked for.
        belongs: u32,
        /// How many partitions there are.
        partitions: u32,
    },
    /// The users of an import are divided otherwise than those of the log.
    #[error(
        "import {import} divides its users among {found} partitions, and the log has {expected}; import the files again into a store of this log"
    )]
    ImportPartitions {
        /// Its number.
        import: i64,
        /// Partitions of the log.
        expected: u32,
        /// Partitions of the import.
        found: u32,
    },
    /// An import that a version covers is gone.
    #[error("import {import}, which the version before covers, is not in the store any more; restore master/imports from a backup")]
    ImportGone {
        /// Its number.
        import: i64,
    },
    /// The index of identities is wrong.
    #[error(
        "the index of identities says that the event at offset {removed} of partition {partition} repeats the one at offset {kept}, and it does not; nothing was published. Remove the folder master/identities from the store: it is made again from the events"
    )]
    Identities {
        /// Of both.
        partition: u32,
        /// Offset of the event that is no duplicate.
        removed: i64,
        /// Offset of what it was taken for.
        kept: i64,
    },
    /// Rows of the master dataset are neither in the view nor among what was left out, or more are than there are.
    #[error(
        "the rows do not reconcile; nothing was published: {0}. A run from all events (without --incremental) tells whether the version before is at fault; if that says so too, rows of the master dataset are missing or counted twice: `batch-layer verify --recompute` names keys"
    )]
    Rows(Box<Rows>),
    /// The audit found differences.
    #[error(
        "the audit against the {against} found {}; nothing was published.{}\nIf a person judges that the new view is right: batch-layer run --accept-difference {run_id}",
        differing(.differences), listed(.differences)
    )]
    Audit {
        /// The run that found them; its report has more of them.
        run_id: String,
        /// What was compared with.
        against: String,
        /// All of them.
        differences: Box<Differences>,
    },
    /// A published version is not what the raw events make.
    #[error("version {version} is not what a fold of the raw events makes: {}{}", differing(.differences), listed(.differences))]
    Unlike {
        /// The version.
        version: i64,
        /// All that differs.
        differences: Box<Differences>,
    },
    /// An answer is not what the raw events make.
    #[error(
        "{view} v{version} and what the speed layer folded since are not what a fold of the raw events makes: {}{}{}",
        differing(.differences), differences.named.iter().take(LISTED_KEYS).map(Difference::of_answer).collect::<String>(), repeated(*.repeats)
    )]
    UnlikeNow {
        /// The view.
        view: String,
        /// The version that answers.
        version: i64,
        /// Raw events from its boundary on that repeat an earlier one.
        repeats: i64,
        /// All that differs.
        differences: Box<Differences>,
    },
    /// The halves of an answer cannot be compared with the raw events now.
    #[error("the answer of {view} v{version} cannot be counted again: {reason}")]
    NotRecounted {
        /// The view.
        view: String,
        /// The version that answers.
        version: i64,
        /// What is in the way.
        reason: String,
    },
    /// Nobody knows the run whose difference is to be accepted.
    #[error("there is no {path}, the report of a run {run_id}; a run whose audit finds a difference says its id")]
    NoJudgedRun {
        /// Where its report should be.
        path: String,
        /// The run.
        run_id: String,
    },
    /// The run whose difference is to be accepted did not fail because of one.
    #[error("run {run_id} has no difference to accept; it ended with: {outcome}")]
    NothingJudged {
        /// The run.
        run_id: String,
        /// What became of it.
        outcome: String,
    },
    /// What was judged is not what there is.
    #[error(
        "the difference of run {judged} is not the one that there is now: {reason}. Nothing was published; `batch-layer run` says what there is to judge"
    )]
    OtherDifference {
        /// The run whose difference was judged.
        judged: String,
        /// What is another.
        reason: String,
    },
    /// A segment comes from another log than the cut.
    #[error("{path} was made from log {found}, and the cut is one of log {expected}; the store holds segments of two logs")]
    ForeignSegment {
        /// The segment.
        path: String,
        /// The log of the cut.
        expected: String,
        /// The log in the seal.
        found: String,
    },
    /// Another run is at work.
    #[error(
        "another run has the lease of {view}: {holder}; wait until it is done, or end it: then its lease runs out by itself and the next run takes over"
    )]
    Busy {
        /// The view.
        view: String,
        /// The other run.
        holder: String,
    },
    /// Another run took over while this one did not renew its lease.
    #[error(
        "this run did not renew its lease in time, say because the machine slept, and {holder} has taken over; nothing was published and nothing deleted"
    )]
    Fenced {
        /// The other run.
        holder: String,
    },
    /// The manifest may be in the store or not.
    #[error(
        "whether version {version} was published is unknown; delete nothing and run again when the store is back: the next run finds the version if it is there, and makes it if not"
    )]
    Unknown {
        /// The version.
        version: i64,
        /// Why nobody can tell.
        #[source]
        source: StoreError,
    },
    /// Somebody else changed the master dataset's files meanwhile.
    #[error("another run has rewritten files of the master dataset meanwhile; nothing was changed: run again")]
    LayoutLost,
    /// A version that has expired is asked for.
    #[error("version {version} of {view} has expired ({reason}); `batch-layer versions` lists those that are kept")]
    Expired {
        /// The view.
        view: String,
        /// The version.
        version: i64,
        /// Why.
        reason: String,
    },
    /// The cold store belongs to another log.
    #[error("the cold store has segments of log {found}, and these are of log {expected}; name another folder in [store] cold")]
    OtherCold {
        /// The log of the store.
        expected: String,
        /// That of the cold store.
        found: String,
    },
    /// Another run published first.
    #[error("another run published version {version} first: {winner_run_id}")]
    Lost {
        /// The version that both meant to publish.
        version: i64,
        /// The run that did.
        winner_run_id: String,
    },
}

/// Differing keys that an error names; the report of a run has more.
const LISTED_KEYS: usize = 10;

fn differing(differences: &Differences) -> String {
    match differences.keys {
        1 => "1 key that differs".to_owned(),
        keys => format!("{keys} keys that differ"),
    }
}

fn listed(differences: &Differences) -> String {
    let mut text: String = differences.named.iter().take(LISTED_KEYS).map(|difference| format!("\n  {difference}")).collect();
    let more = differences.keys - differences.named.len().min(LISTED_KEYS) as i64;
    if more > 0 {
        text += &format!("\n  and {more} more");
    }
    text
}

/// Why an answer may be more than the raw events make, though nothing is wrong.
fn repeated(repeats: i64) -> String {
    match repeats {
        0 => String::new(),
        1 => "\n1 event since the version repeats an earlier one, which the speed layer did not know any more or which was imported; the next run takes it out".to_owned(),
        more => format!("\n{more} events since the version repeat earlier ones, which the speed layer did not know any more or which were imported; the next run takes them out"),
    }
}

impl RunError {
    /// The exit code: 1 refused or failed, 2 configuration, 3 another run is or was first, 4 a dependency is down, try again.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        use tonic::Code::{
            Aborted, Cancelled, DeadlineExceeded, PermissionDenied, ResourceExhausted, Unauthenticated, Unavailable, Unknown,
        };
        match self {
            Self::Definition { .. }
            | Self::ViewName { .. }
            | Self::UserStatsKey { .. }
            | Self::NoDefinition { .. }
            | Self::UnknownView { .. }
            | Self::DefinitionGone { .. }
            | Self::AmountType { .. }
            | Self::AttributeType { .. }
            | Self::NoJudgedRun { .. }
            | Self::NothingJudged { .. }
            | Self::Partitions { .. }
            | Self::OtherCold { .. }
            | Self::NoLimit { .. }
            | Self::LongLimit { .. }
            | Self::BelowFloor { .. }
            | Self::UserId { .. }
            | Self::NoSpeedLayer
            | Self::SpeedAddress { .. }
            | Self::Tls(_)
            | Self::Token(_)
            | Self::SpeedNotTrusted { .. } => 2,
            Self::Lost { .. } | Self::Busy { .. } | Self::Fenced { .. } | Self::LayoutLost => 3,
            Self::SpeedUnreachable { .. } | Self::Unknown { .. } => 4,
            Self::SpeedFailed { source, .. } => match source.status().code() {
                Unavailable | DeadlineExceeded | ResourceExhausted | Aborted | Cancelled | Unknown => 4,
                // A token that is missing, wrong, or for something else.
                Unauthenticated | PermissionDenied => 2,
                _ => 1,
            },
            Self::Store(
                StoreError::Backend { .. } | StoreError::Io { .. } | StoreError::UnknownOutcome { .. } | StoreError::ColdEmpty { .. },
            ) => 4,
            Self::Store(StoreError::Url { .. } | StoreError::NoCold { .. }) => 2,
            _ => 1,
        }
    }
}
