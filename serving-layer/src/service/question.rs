//! Requests, checked field by field as far as that needs no view.

use merganser_proto::v1::{self, BatchGetUserStatsRequest, GetUserStatsRequest};
use prost_types::Timestamp;
use views::Granularity;
use views::event::MAX_USER_ID_BYTES;

use crate::ServingError;
use crate::position::Position;
use crate::question::{Consistency, MAX_USERS, Question, TimeRange};

impl TryFrom<GetUserStatsRequest> for Question {
    type Error = ServingError;

    fn try_from(request: GetUserStatsRequest) -> Result<Self, ServingError> {
        check_id("user_id", &request.user_id)?;
        Ok(Self {
            range: range(request.start_time, request.end_time)?,
            granularity: granularity(request.granularity)?,
            consistency: consistency(request.consistency)?,
            min_position: min_position(&request.min_position)?,
            explain: request.explain,
            user_ids: vec![request.user_id],
        })
    }
}

impl TryFrom<BatchGetUserStatsRequest> for Question {
    type Error = ServingError;

    fn try_from(request: BatchGetUserStatsRequest) -> Result<Self, ServingError> {
        let count = request.user_ids.len();
        if count > MAX_USERS {
            return Err(ServingError::field("user_ids", format!("are {count}; ask about at most {MAX_USERS} users at once")));
        }
        for (i, user_id) in request.user_ids.iter().enumerate() {
            check_id(&format!("user_ids[{i}]"), user_id)?;
        }
        Ok(Self {
            range: range(request.start_time, request.end_time)?,
            granularity: granularity(request.granularity)?,
            consistency: consistency(request.consistency)?,
            min_position: min_position(&request.min_position)?,
            explain: false,
            user_ids: request.user_ids,
        })
    }
}

fn check_id(field: &str, user_id: &str) -> Result<(), ServingError> {
    match user_id.len() {
        0 => Err(ServingError::field(field, "is empty")),
        1..=MAX_USER_ID_BYTES => Ok(()),
        bytes => Err(ServingError::field(field, format!("is {bytes} bytes long; an id has at most {MAX_USER_ID_BYTES}"))),
    }
}

fn range(start: Option<Timestamp>, end: Option<Timestamp>) -> Result<TimeRange, ServingError> {
    Ok(TimeRange { start_us: micros("start_time", start)?, end_us: micros("end_time", end)? })
}

/// Microseconds since 1970. Finer digits are refused: no bucket has an edge there.
fn micros(field: &str, time: Option<Timestamp>) -> Result<Option<i64>, ServingError> {
    let Some(time) = time else { return Ok(None) };
    if !(0..1_000_000_000).contains(&time.nanos) {
        return Err(ServingError::field(field, "has nanos outside 0 to 999,999,999"));
    }
    if time.nanos % 1000 != 0 {
        return Err(ServingError::field(field, "has digits finer than a microsecond, where no bucket has an edge"));
    }
    let micros = time.seconds.checked_mul(1_000_000).and_then(|us| us.checked_add(i64::from(time.nanos / 1000)));
    micros.map(Some).ok_or_else(|| ServingError::field(field, "is outside the years 1900 to 2200, where no event is"))
}

fn granularity(number: i32) -> Result<Granularity, ServingError> {
    match v1::Granularity::try_from(number) {
        Ok(v1::Granularity::Unspecified | v1::Granularity::Total) => Ok(Granularity::Total),
        Ok(v1::Granularity::Bucket) => Ok(Granularity::Bucket),
        Err(_) => Err(ServingError::field("granularity", format!("has no value {number}"))),
    }
}

fn consistency(number: i32) -> Result<Consistency, ServingError> {
    match v1::Consistency::try_from(number) {
        Ok(v1::Consistency::Unspecified | v1::Consistency::Fresh) => Ok(Consistency::Fresh),
        Ok(v1::Consistency::BestEffort) => Ok(Consistency::BestEffort),
        Ok(v1::Consistency::BatchOnly) => Ok(Consistency::BatchOnly),
        Err(_) => Err(ServingError::field("consistency", format!("has no value {number}"))),
    }
}

fn min_position(token: &str) -> Result<Option<Position>, ServingError> {
    (!token.is_empty()).then(|| Position::parse(token)).transpose()
}
