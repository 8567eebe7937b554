//! Calls by method and code, and how long they took.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;
use tonic::Code;
use tonic::body::Body;
use tonic::codegen::http::Response;

use crate::metrics::{Durations, Labels, Sheet, Spread};

/// Whatever is no method of this server, or one that nobody watches.
const OTHER: &str = "other";
/// Where a status is that comes instead of an answer.
const STATUS_HEADER: &str = "grpc-status";
/// From OK to UNAUTHENTICATED.
const CODES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

/// The calls of a server, by method. What a client asks for beside the methods counts as one more, so that no client can make labels.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct CallCounts {
    methods: Arc<HashMap<&'static str, MethodCounts>>,
    other: MethodCounts,
}

/// The calls of one method.
#[derive(Clone, Debug)]
pub struct MethodCounts(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    method: &'static str,
    codes: [AtomicU64; CODES.len()],
    durations: Durations,
}

/// What has become of the calls of one method.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodCalls {
    /// Its short name.
    pub method: &'static str,
    /// Those that were answered.
    pub answered: u64,
    /// Those that ended otherwise.
    pub failed: u64,
    /// How long all of them took.
    pub took: Spread,
}

impl CallCounts {
    /// Nothing yet, of the methods at these paths, `/package.Service/Method`.
    #[must_use]
    pub fn of(paths: &[&'static str]) -> Self {
        let methods = paths.iter().map(|path| (*path, MethodCounts::of(path.rsplit('/').next().unwrap_or(path))));
        Self { methods: Arc::new(methods.collect()), other: MethodCounts::of(OTHER) }
    }

    /// Where calls of `path` are counted.
    #[must_use]
    pub fn method(&self, path: &str) -> MethodCounts {
        self.methods.get(path).unwrap_or(&self.other).clone()
    }

    /// What has become of the calls of each method until now, by its name.
    #[must_use]
    pub fn by_method(&self) -> Vec<MethodCalls> {
        let mut methods: Vec<_> = self.methods.values().chain([&self.other]).map(|counts| counts.0.calls()).collect();
        methods.sort_by_key(|calls| calls.method);
        methods
    }

    /// Writes `<prefix>_calls_total` and `<prefix>_call_duration_seconds`.
    ///
    /// # Errors
    /// The sheet's.
    pub fn write(&self, prefix: &str, sheet: &mut Sheet<'_>) -> fmt::Result {
        let mut methods: Vec<&Counted> = self.methods.values().chain([&self.other]).map(|counts| &*counts.0).collect();
        methods.sort_by_key(|counted| counted.method);
        let calls = methods.iter().flat_map(|counted| counted.by_code());
        sheet.counter(&format!("{prefix}_calls"), "Calls by method and code; of a stream, how it began.", calls)?;
        let durations = methods.iter().map(|counted| (vec![("method", counted.method.to_owned())], counted.durations.clone()));
        sheet.durations(&format!("{prefix}_call_duration_seconds"), "From a call's headers to those of its answer.", durations)
    }
}

impl Counted {
    fn calls(&self) -> MethodCalls {
        let all: u64 = self.codes.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        let answered = self.codes[Code::Ok as usize].load(Ordering::Relaxed);
        MethodCalls { method: self.method, answered, failed: all.saturating_sub(answered), took: self.durations.spread() }
    }

    /// Every code that was given once; OK always.
    fn by_code(&self) -> impl Iterator<Item = (Labels, u64)> {
        let counts = self.codes.iter().map(|count| count.load(Ordering::Relaxed));
        let given = CODES.iter().zip(counts).filter(|((code, _), count)| *code == Code::Ok || *count > 0);
        given.map(|((_, name), count)| (vec![("method", self.method.to_owned()), ("code", (*name).to_owned())], count))
    }
}

impl MethodCounts {
    fn of(method: &'static str) -> Self {
        Self(Arc::new(Counted { method, codes: Default::default(), durations: Durations::default() }))
    }

    /// The name of the method, unless it is one that nobody watches, or none.
    pub(super) fn name(&self) -> Option<&'static str> {
        Some(self.0.method).filter(|method| *method != OTHER)
    }

    /// A call has come.
    pub(super) fn begin(self) -> Begun {
        Begun { counts: self, since: Instant::now(), code: Code::Cancelled }
    }
}

/// The code of an answer; of a stream, how it began.
pub(super) fn code(response: &Response<Body>) -> Code {
    response.headers().get(STATUS_HEADER).map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

/// A call that is being answered. One that is dropped before was cancelled.
pub(super) struct Begun {
    counts: MethodCounts,
    since: Instant,
    code: Code,
}

impl Begun {
    pub(super) fn answered(mut self, response: &Response<Body>) {
        self.code = code(response);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Counted { codes, durations, .. } = &*self.counts.0;
        codes[self.code as usize].fetch_add(1, Ordering::Relaxed);
        durations.observe(self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::Status;

    use super::*;
    use crate::metrics::{Numbers, text};

    impl Numbers for CallCounts {
        fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
            self.write("a", sheet)
        }
    }

    /// Proves that each call is counted once under the code that its client gets, one that is given up as cancelled, and that paths which
    /// are no methods share one label, however many there are.
    #[tokio::test]
    async fn counted_once() {
        let counts = CallCounts::of(&["/a.B/Get"]);
        counts.method("/a.B/Get").begin().answered(&Response::new(Body::empty()));
        counts.method("/a.B/Get").begin().answered(&Status::unavailable("no").into_http());
        drop(counts.method("/a.B/Get").begin());
        for user in 0..100 {
            counts.method(&format!("/a.B/user-{user}")).begin().answered(&Status::unimplemented("no").into_http());
        }
        let calls = counts.by_method().into_iter().map(|calls| (calls.method, calls.answered, calls.failed, calls.took.count()));
        assert_eq!(calls.collect::<Vec<_>>(), [("Get", 1, 2, 3), ("other", 0, 100, 100)]);
        let numbers: Arc<dyn Numbers> = Arc::new(counts);
        let text = text(&numbers).expect("it is written to a string");
        let samples: Vec<&str> = text.lines().filter(|line| line.starts_with("a_calls_total")).collect();
        let expected = [
            r#"a_calls_total{method="Get",code="OK"} 1"#,
            r#"a_calls_total{method="Get",code="CANCELLED"} 1"#,
            r#"a_calls_total{method="Get",code="UNAVAILABLE"} 1"#,
            r#"a_calls_total{method="other",code="OK"} 0"#,
            r#"a_calls_total{method="other",code="UNIMPLEMENTED"} 100"#,
        ];
        assert_eq!(samples, expected);
        assert!(text.contains("a_call_duration_seconds_count{method=\"Get\"} 3\n"), "{text}");
    }
}
