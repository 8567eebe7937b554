//! Who is let in, and with what this program calls a server: the files of `[auth]` and `[client]`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use merganser_proto::Bearer;
use merganser_proto::audit::Audit;
use merganser_proto::auth::{Authority, Clock};
use storage::config::Config;
use storage::machine::{Machine, RealMachine};

use super::Program;
use super::finding::Report;
use crate::auth::{asks_everybody, options};

const CHECK: &str = "doors";
/// Rights of a file by which others than its owner read it.
const READ_BY_OTHERS: u32 = 0o044;

pub(super) fn check(program: Program, config: &Config, report: &mut Report) {
    let addresses = match program {
        Program::SpeedLayer => vec![&config.speed_layer.grpc_address, &config.speed_layer.http_address],
        Program::ServingLayer => vec![&config.serving_layer.grpc_address, &config.serving_layer.http_address],
        Program::BatchLayer => Vec::new(),
    };
    if !addresses.is_empty() {
        let is_open = |address: &&&String| address.parse::<SocketAddr>().is_ok_and(|address| !address.ip().is_loopback());
        lets_in(config, addresses.iter().find(is_open).map(|address| address.as_str()), report);
    }
    calls_with(config, report);
}

/// Who may call.
fn lets_in(config: &Config, open: Option<&str>, report: &mut Report) {
    let auth = &config.auth;
    if !asks_everybody(config) {
        return match open {
            Some(address) if !config.tls.insecure => report.bad(
                CHECK,
                format!("not everybody is asked who they are, and {address} is open to other machines: the server will not start"),
                "name clients in [auth] tokens, or listen on 127.0.0.1; docs/security.md",
            ),
            Some(address) => report.warn(
                CHECK,
                format!("nobody is asked who they are, and {address} is open to other machines"),
                "name clients in [auth] tokens, or listen on 127.0.0.1; docs/security.md",
            ),
            None => report.good(CHECK, "nobody is asked who they are; only this machine can call"),
        };
    }
    if !auth.is_on() {
        return report.good(CHECK, "clients show a certificate, and whoever has one may do everything");
    }
    let clock: Clock = Arc::new(|| RealMachine.now());
    let files = [&auth.tokens, &auth.jwt_keys]
        .into_iter()
        .filter_map(|path| set(path))
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ");
    match Authority::open(options(auth), clock, Audit::to_log("doctor")) {
        Ok(_) => report.good(CHECK, format!("clients are asked who they are: {files}")),
        Err(error) => {
            report.bad(
                CHECK,
                format!("{:#}", anyhow::Error::new(error)),
                "mend the file; `speed-layer token new` prints an entry, docs/security.md has the rest",
            );
        }
    }
    if let Some(audit) = set(&auth.audit_file) {
        let folder = audit.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // One that is there already is opened as the server does, and nothing is written.
        let cannot = audit.exists().then(|| fs::OpenOptions::new().append(true).open(&audit).err()).flatten();
        if let Some(error) = cannot {
            return report.bad(
                CHECK,
                format!("auth.audit_file = {}: {error}", audit.display()),
                "name a file that this user may append to",
            );
        }
        match folder.is_dir() {
            true => report.good(CHECK, format!("administrative acts are written to {}", audit.display())),
            false => {
                report.bad(CHECK, format!("auth.audit_file: there is no folder {}", folder.display()), "make it, or name another file")
            }
        }
    }
}

/// With what this program calls.
fn calls_with(config: &Config, report: &mut Report) {
    let client = &config.client;
    let Some(file) = set(&client.token_file).filter(|_| client.token.is_none()) else { return };
    match Bearer::from_file(&file) {
        Err(error) => {
            report.bad(CHECK, format!("client.token_file: {:#}", anyhow::Error::new(error)), "put the token into it, and nothing else")
        }
        Ok(_) if is_read_by_others(&file) => {
            report.warn(CHECK, format!("client.token_file = {}: others than its owner can read it", file.display()), "chmod 600");
        }
        Ok(_) => report.good(CHECK, format!("calls carry the token in {}", file.display())),
    }
}

fn is_read_by_others(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|found| found.permissions().mode() & READ_BY_OTHERS != 0)
}

fn set(path: &Path) -> Option<PathBuf> {
    Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    fn marks(program: Program, config: &Config) -> Vec<Mark> {
        let mut report = Report::new("x");
        check(program, config, &mut report);
        report.of(CHECK).iter().map(|(mark, _)| *mark).collect()
    }

    /// Proves that an open door where nobody is asked is told, that files which cannot be used are bad, and that a token which others can
    /// read is told.
    #[tokio::test]
    async fn doors() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        assert_eq!(marks(Program::SpeedLayer, &config), [Mark::Good]);
        assert_eq!(marks(Program::BatchLayer, &config), []);
        config.speed_layer.grpc_address = "0.0.0.0:7401".to_owned();
        assert_eq!(marks(Program::SpeedLayer, &config), [Mark::Bad]);
        config.tls.insecure = true;
        assert_eq!(marks(Program::SpeedLayer, &config), [Mark::Warning]);
        config.auth.tokens = folder.path().join("tokens.toml");
        config.auth.audit_file = folder.path().join("none/audit.jsonl");
        assert_eq!(marks(Program::SpeedLayer, &config), [Mark::Bad, Mark::Bad]);
        let token = folder.path().join("token");
        config.client.token_file = token.clone();
        assert_eq!(marks(Program::BatchLayer, &config), [Mark::Bad]);
        fs::write(&token, "x".repeat(40)).unwrap();
        for (rights, mark) in [(0o644, Mark::Warning), (0o600, Mark::Good)] {
            fs::set_permissions(&token, fs::Permissions::from_mode(rights)).unwrap();
            assert_eq!(marks(Program::BatchLayer, &config), [mark], "{rights:o}");
        }
    }
}
