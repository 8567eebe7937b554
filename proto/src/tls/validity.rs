//! From when to when a certificate is valid, and whom it names. rustls judges by both and tells neither.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TlsError;
use super::files::Named;

/// A certificate's time is said to be short when a fifth of it is left,
const SHORT_PART: i64 = 5;
/// or so little, whichever is less.
const SHORT_S: i64 = 14 * 24 * 3600;

/// Seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before_s: i64,
    pub(super) not_after_s: i64,
}

/// What is left of a certificate's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Enough,
    Short,
    Nothing,
}

impl Validity {
    /// That of the leaf in a file, which has to name somebody if it is shown to clients.
    pub(super) fn of(file: &Named, leaf: &CertificateDer<'_>, needs_names: bool) -> Result<Self, TlsError> {
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|e| file.wrong(format!("its first certificate is damaged: {e}")))?;
        let names = leaf.subject_alternative_name().ok().flatten().map_or(0, |names| names.value.general_names.len());
        if needs_names && names == 0 {
            return Err(file.wrong(
                "its first certificate names nobody, so that every client would refuse it; make one with a subject alternative name \
                 (DNS:host, IP:address), for the common name does not count",
            ));
        }
        let validity = leaf.validity();
        Ok(Self { not_before_s: validity.not_before.timestamp(), not_after_s: validity.not_after.timestamp() })
    }

    pub(super) fn left_s(self, now_s: i64) -> i64 {
        self.not_after_s.saturating_sub(now_s)
    }

    pub(super) fn left(self, now_s: i64) -> Left {
        let short_s = (self.not_after_s.saturating_sub(self.not_before_s) / SHORT_PART).min(SHORT_S);
        match self.left_s(now_s) {
            left if left < 0 => Left::Nothing,
            left if left < short_s => Left::Short,
            _ => Left::Enough,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a year's certificate is short two weeks before its end, a day's some hours before, and that it is valid to its last second.
    #[test]
    fn left() {
        const DAY: i64 = 24 * 3600;
        let year = Validity { not_before_s: 0, not_after_s: 365 * DAY };
        assert_eq!([350, 352, 366].map(|day| year.left(day * DAY)), [Left::Enough, Left::Short, Left::Nothing]);
        let day = Validity { not_before_s: 0, not_after_s: DAY };
        assert_eq!(
            [0, DAY * 4 / 5, DAY * 4 / 5 + 1, DAY, DAY + 1].map(|s| day.left(s)),
            [Left::Enough, Left::Enough, Left::Short, Left::Short, Left::Nothing]
        );
    }
}
