//! From when to when a certificate is valid, and whether it names somebody. rustls judges by both and tells neither, and the crates that
//! would read it (`x509-parser`) change features of what DataFusion is built with; so the few fields are read here, of DER that rustls has
//! accepted or will refuse (X.690, RFC 5280).

use chrono::NaiveDate;
use rustls::pki_types::CertificateDer;

use super::TlsError;
use super::files::Named;

/// A certificate's time is said to be short when a fifth of it is left,
const SHORT_PART: i64 = 5;
/// or so little, whichever is less.
const SHORT_S: i64 = 14 * 24 * 3600;

/// Tags of DER.
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const OCTET_STRING: u8 = 0x04;
/// The version of a certificate, which may be absent, and its extensions.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// 2.5.29.17, subject alternative names, with its tag and length.
const NAMES_OID: [u8; 5] = [0x06, 0x03, 0x55, 0x1d, 0x11];

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
        let (validity, has_names) = read(leaf).ok_or_else(|| file.wrong("its first certificate is damaged"))?;
        if needs_names && !has_names {
            return Err(file.wrong(
                "its first certificate names nobody, so that every client would refuse it; make one with a subject alternative name \
                 (DNS:host, IP:address), for the common name does not count",
            ));
        }
        Ok(validity)
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

/// Bytes of DER, element by element.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The tag and the content of the next element.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], mut rest) = self.0.split_first_chunk::<2>()?;
        let length = match first {
            0..=0x7f => usize::from(first),
            // Four bytes of length are more than any file here has.
            0x81..=0x84 => {
                let (length, after) = rest.split_at_checked(usize::from(first - 0x80))?;
                rest = after;
                length.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte))
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The next element, which has to have this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

/// When the certificate is valid, and whether it has a subject alternative name.
fn read(certificate: &[u8]) -> Option<(Validity, bool)> {
    let mut fields = Der(Der(Der(certificate).expect(SEQUENCE)?).expect(SEQUENCE)?);
    let mut before = fields;
    if before.next()?.0 == VERSION {
        fields = before;
    }
    // The serial number, the algorithm, the issuer.
    for _ in 0..3 {
        fields.next()?;
    }
    let mut times = Der(fields.expect(SEQUENCE)?);
    let validity = Validity { not_before_s: seconds(times.next()?)?, not_after_s: seconds(times.next()?)? };
    let mut has_names = false;
    while let Some((tag, content)) = fields.next() {
        if tag == EXTENSIONS {
            let mut extensions = Der(Der(content).expect(SEQUENCE)?);
            while let Some(extension) = extensions.expect(SEQUENCE) {
                has_names |= extension.starts_with(&NAMES_OID) && names_somebody(&extension[NAMES_OID.len()..]);
            }
        }
    }
    Some((validity, has_names))
}

/// Whether the rest of an extension of names, after an optional flag, holds one.
fn names_somebody(rest: &[u8]) -> bool {
    let mut rest = Der(rest);
    while let Some((tag, content)) = rest.next() {
        if tag == OCTET_STRING {
            return Der(content).expect(SEQUENCE).is_some_and(|names| !names.is_empty());
        }
    }
    false
}

/// `YYMMDDhhmmssZ` from 1950 to 2049, or `YYYYMMDDhhmmssZ`, as seconds since 1970.
fn seconds((tag, text): (u8, &[u8])) -> Option<i64> {
    let digits = text.strip_suffix(b"Z").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let number = |digits: &[u8]| digits.iter().fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    let (year, rest) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let (year, rest) = digits.split_at(2);
            (if number(year) < 50 { 2000 + number(year) } else { 1900 + number(year) }, rest)
        }
        (GENERALIZED_TIME, 14) => {
            let (year, rest) = digits.split_at(4);
            (number(year), rest)
        }
        _ => return None,
    };
    let part = |at: usize| number(&rest[at..at + 2]);
    let day = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, part(0), part(2))?;
    Some(day.and_hms_opt(part(4), part(6), part(8))?.and_utc().timestamp())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// Proves that a year's certificate is short two weeks before its end, a day's some hours before, and that it is valid to its last second.
    #[test]
    fn left() {
        const DAY: i64 = 24 * 3600;
        let year = Validity { not_before_s: 0, not_after_s: 365 * DAY };
        assert_eq!([350, 352, 366].map(|day| year.left(day * DAY)), [Left::Enough, Left::Short, Left::Nothing]);
        let day = Validity { not_before_s: 0, not_after_s: DAY };
        let lefts = [0, DAY * 4 / 5, DAY * 4 / 5 + 1, DAY, DAY + 1].map(|s| day.left(s));
        assert_eq!(lefts, [Left::Enough, Left::Enough, Left::Short, Left::Short, Left::Nothing]);
    }

    /// Proves that both ways to write a time are read, and whether there is a name, of what another library has written; and that whatever
    /// is cut short or changed is refused or read, and nothing worse.
    #[test]
    fn read_as_written() {
        for (years, names) in [((1970, 2049), &["localhost"][..]), ((2049, 2050), &[]), ((2050, 9999), &["127.0.0.1", "localhost"])] {
            let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
            (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 12, 31));
            let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
            let seconds =
                |year, month, day| NaiveDate::from_ymd_opt(year, month, day).unwrap().and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp();
            let expected = Validity { not_before_s: seconds(years.0, 1, 1), not_after_s: seconds(years.1, 12, 31) };
            assert_eq!(read(certificate.der()), Some((expected, !names.is_empty())));
            let bytes = certificate.der().to_vec();
            for at in 0..bytes.len() {
                assert!(read(&bytes[..at]).is_none());
                let mut changed = bytes.clone();
                changed[at] ^= 0xff;
                let _read_or_refused = read(&changed);
            }
        }
    }
}
