//! The files of `[tls]`: whether they can be used, and for how long.

use std::path::Path;

use merganser_proto::tls::TlsError;
use storage::config::TlsConfig;

use super::Program;
use super::finding::Report;
use crate::tls;

const CHECK: &str = "tls";
const DAY_S: i64 = 24 * 3600;
/// What is left of a certificate when somebody should see to it.
const SHORT_DAYS: i64 = 7;
const RENEW: &str = "put a new certificate and its key there; running servers read them by themselves";

pub(super) fn check(program: Program, config: &TlsConfig, report: &mut Report) {
    if program != Program::BatchLayer {
        match tls::server(config) {
            Ok(None) => {}
            Ok(Some(server)) => left("tls.certificate", &config.certificate, server.left_s(), report),
            Err(error) => unusable(error, report),
        }
    }
    match tls::calls(config) {
        Ok(calls) => {
            if let Some(left_s) = calls.left_s() {
                left("tls.client_certificate", &config.client_certificate, left_s, report);
            }
        }
        Err(error) => unusable(error, report),
    }
}

fn left(setting: &str, path: &Path, left_s: i64, report: &mut Report) {
    let (what, days) = (format!("{setting} = {}", path.display()), left_s.div_euclid(DAY_S));
    match days {
        ..0 => report.bad(CHECK, format!("{what}: past its date, and refused by everybody"), RENEW),
        0..SHORT_DAYS => report.warn(CHECK, format!("{what}: {days} days left"), RENEW),
        SHORT_DAYS.. => report.good(CHECK, format!("{what}: {days} days left")),
    }
}

fn unusable(error: TlsError, report: &mut Report) {
    report.bad(CHECK, format!("{:#}", anyhow::Error::new(error)), "mend the file or the setting; docs/security.md sets it up");
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    /// Proves that nothing is said without `[tls]`, that what cannot be read is bad, and that little time is worth a word and none is bad.
    #[test]
    fn certificates() {
        let marks = |tell: &dyn Fn(&mut Report)| {
            let mut report = Report::new("x");
            tell(&mut report);
            report.of(CHECK).iter().map(|(mark, _)| *mark).collect::<Vec<_>>()
        };
        assert_eq!(marks(&|report| check(Program::SpeedLayer, &TlsConfig::default(), report)), []);
        let none = TlsConfig { certificate: "none.pem".into(), key: "none.key".into(), ca: "none.pem".into(), ..TlsConfig::default() };
        assert_eq!(marks(&|report| check(Program::SpeedLayer, &none, report)), [Mark::Bad, Mark::Bad]);
        assert_eq!(marks(&|report| check(Program::BatchLayer, &none, report)), [Mark::Bad]);
        for (left_s, mark) in [(-1, Mark::Bad), (0, Mark::Warning), (7 * DAY_S - 1, Mark::Warning), (7 * DAY_S, Mark::Good)] {
            assert_eq!(marks(&|report| left("x", Path::new("x.pem"), left_s, report)), [mark], "{left_s}");
        }
    }
}
