//! `serving-layer get`: one question to a running server, printed for a person or a script.

/// What an answer was made of.
mod explanation;
/// `serving-layer export`.
pub(crate) mod export;
/// As an object.
mod json;
/// `serving-layer rows`.
pub(crate) mod rows;
/// As a table.
mod table;
/// Again and again.
mod watch;

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, Utc};
use clap::{Args, ValueEnum, value_parser};
use cli::exit::{CONFIGURATION, FAILED, TRY_AGAIN};
use cli::print::{note, say};
use cli::{Output, Printed};
use merganser_proto::Transport;
use merganser_proto::client::{self, ConnectError, is_not_trusted, plaintext_warning};
use merganser_proto::v1::user_stats_service_client::UserStatsServiceClient;
use merganser_proto::v1::{self, GetUserStatsRequest, GetUserStatsResponse};
use prost_types::Timestamp;
use storage::config::{Config, Period, TOKEN_VARIABLE};
use tonic::{Code, Status};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the server takes for any question.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whom to ask about, what, and how to print it.
#[derive(Args)]
pub(crate) struct Get {
    /// Whose statistics.
    user_id: String,
    /// Start of the range, inclusive: 2024-01-31 (midnight UTC) or RFC 3339.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    from: Option<DateTime<Utc>>,
    /// End of the range, exclusive.
    #[arg(long, value_name = "DATE", value_parser = parse_date)]
    to: Option<DateTime<Utc>>,
    /// Also prints each time bucket.
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Also prints the two halves that the answer was merged from, and what they were read from.
    #[arg(long)]
    explain: bool,
    /// Goes on printing whenever the answer has changed, until Ctrl-C.
    #[arg(long)]
    watch: bool,
    /// What there is at least between two answers of --watch, such as 250ms or 5s; one second if absent.
    #[arg(long, value_name = "TIME", requires = "watch", value_parser = parse_period)]
    interval: Option<Period>,
    #[command(flatten)]
    printed: Printed,
    /// The server; by default the address in the settings.
    #[arg(long, value_name = "URL")]
    address: Option<String>,
    /// What the answer must contain; fresh if absent, and with --version batch-only.
    #[arg(long, value_enum)]
    consistency: Option<Consistency>,
    /// The answer of an earlier version, by its number.
    #[arg(long, value_name = "N", conflicts_with = "watch", value_parser = value_parser!(i64).range(1..))]
    version: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Bucket,
}

#[derive(Clone, Copy, ValueEnum)]
enum Consistency {
    /// Both halves, or an error.
    Fresh,
    /// Both halves, or the batch half and a word of warning.
    BestEffort,
    /// The batch half.
    BatchOnly,
}

/// Asks and prints.
pub(crate) async fn run(get: &Get, config: &Config) -> anyhow::Result<()> {
    let server = connect(get.address.as_deref(), config).await?;
    if get.watch {
        return watch::run(get, server).await;
    }
    print(get.printed.output, &ask(get, server).await?)
}

fn print(output: Output, answer: &GetUserStatsResponse) -> anyhow::Result<()> {
    let text = match output {
        Output::Table => table::render(answer)?,
        Output::Json => json::render(answer)?,
    };
    Ok(say(text.trim_end_matches('\n'))?)
}

async fn ask(get: &Get, server: Transport) -> anyhow::Result<GetUserStatsResponse> {
    let mut client = UserStatsServiceClient::new(server);
    let response = client.get_user_stats(request(get)).await.map_err(Unanswered::Refused)?;
    Ok(response.into_inner())
}

/// A connection to the server at `address`, or to that of the settings.
async fn connect(address: Option<&str>, config: &Config) -> anyhow::Result<Transport> {
    let address = address.map_or_else(|| config.tls.url_of(&config.serving_layer.grpc_address), str::to_owned);
    let tls = cli::tls::calls(&config.tls)?;
    if let Some(warning) = plaintext_warning(&address, &tls) {
        note(crate::NAME, warning);
    }
    let token = cli::auth::token(&config.client, &address)?;
    match client::connect(&address, &tls, |endpoint| endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT)).await {
        Err(ConnectError::Unreachable { .. }) => Err(Unanswered::Nobody { address }.into()),
        connected => Ok(connected?.carrying(token)),
    }
}

fn request(get: &Get) -> GetUserStatsRequest {
    let granularity = get.by.map_or(v1::Granularity::Total, |By::Bucket| v1::Granularity::Bucket);
    GetUserStatsRequest {
        user_id: get.user_id.clone(),
        start_time: get.from.map(timestamp),
        end_time: get.to.map(timestamp),
        granularity: granularity.into(),
        consistency: number(get.consistency),
        min_position: String::new(),
        explain: get.explain,
        version: get.version.unwrap_or(0),
    }
}

fn timestamp(time: DateTime<Utc>) -> Timestamp {
    Timestamp { seconds: time.timestamp(), nanos: i32::try_from(time.timestamp_subsec_nanos()).unwrap_or(0) }
}

/// As requests have it.
fn number(consistency: Option<Consistency>) -> i32 {
    let consistency = match consistency {
        None => v1::Consistency::Unspecified,
        Some(Consistency::Fresh) => v1::Consistency::Fresh,
        Some(Consistency::BestEffort) => v1::Consistency::BestEffort,
        Some(Consistency::BatchOnly) => v1::Consistency::BatchOnly,
    };
    consistency.into()
}

/// A question without an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// There is no server.
    #[error("no serving layer answers at {address}; start one with `serving-layer serve`")]
    Nobody {
        /// Where it was looked for.
        address: String,
    },
    /// It cannot be asked.
    #[error("{what}")]
    Question {
        /// Why, and what to ask instead.
        what: String,
    },
    /// The server gives none.
    #[error("{}", sentence(.0))]
    Refused(Status),
}

impl Unanswered {
    /// What the program ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Nobody { .. } => TRY_AGAIN,
            Self::Question { .. } => CONFIGURATION,
            Self::Refused(status) if is_not_trusted(status) => CONFIGURATION,
            Self::Refused(status) => match status.code() {
                Code::InvalidArgument => CONFIGURATION,
                Code::Unavailable | Code::ResourceExhausted | Code::Cancelled | Code::DeadlineExceeded => TRY_AGAIN,
                _ => FAILED,
            },
        }
    }
}

fn sentence(status: &Status) -> String {
    let message = status.message();
    match status.code() {
        _ if is_not_trusted(status) => message.to_owned(),
        Code::Unauthenticated | Code::PermissionDenied => {
            format!("{message} (this command takes its token from the variable {TOKEN_VARIABLE}, or from the file of [client] token_file)")
        }
        Code::InvalidArgument => format!("the question cannot be answered: {message}"),
        Code::Unavailable => format!("{message} (try again, or ask with --consistency best-effort or batch-only)"),
        Code::Cancelled | Code::DeadlineExceeded => "the server did not answer in time".to_owned(),
        code => format!("{message} ({code:?})"),
    }
}

fn parse_date(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(date) = text.parse::<NaiveDate>() {
        return Ok(date.and_time(NaiveTime::MIN).and_utc());
    }
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| "write a date such as 2024-01-31, or RFC 3339".to_owned())?;
    Ok(time.to_utc())
}

fn parse_period(text: &str) -> Result<Period, String> {
    Period::try_from(text.to_owned())
}

/// RFC 3339 in UTC; empty for none.
fn time_text(time: Option<&Timestamp>) -> String {
    let time = time.and_then(|t| DateTime::from_timestamp(t.seconds, u32::try_from(t.nanos).ok()?));
    time.map_or_else(String::new, |time| time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

#[cfg(test)]
mod tests;
