//! Certificates, made when they are needed: nothing that expires lies in the repository.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use storage::config::TlsConfig;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// What is valid now.
pub const NOW: Range<i32> = 1990..4000;
/// What was valid once.
pub const PAST: Range<i32> = 1990..2000;
/// The names that servers of tests are called by.
pub const HERE: [&str; 2] = ["localhost", "127.0.0.1"];
/// The name of the layers as clients.
pub const LAYER: &str = "spiffe://merganser.test/layer";

/// A CA.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// Another one each time.
    ///
    /// # Errors
    /// There is no key to be had.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "CA of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Writes what it is trusted by, `<name>.pem`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        let path = folder.join(format!("{name}.pem"));
        std::fs::write(&path, self.0.pem())?;
        Ok(path)
    }

    /// Writes `<name>.pem` and `<name>.key` for whoever has these names (DNS names, IP addresses, and URIs), valid from the beginning of a year to that of another.
    ///
    /// # Errors
    /// A name is none, or a file cannot be written.
    pub fn issue(&self, folder: &Path, name: &str, names: &[&str], years: Range<i32>) -> Result<(PathBuf, PathBuf)> {
        let (uris, others): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
        let mut params = CertificateParams::new(others.into_iter().map(str::to_owned).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .subject_alt_names
            .extend(uris.into_iter().map(|uri| Ok(SanType::URI(uri.try_into()?))).collect::<Result<Vec<_>, rcgen::Error>>()?);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(years.start, 1, 1), date_time_ymd(years.end, 1, 1));
        let key = KeyPair::generate()?;
        let (certificate_path, key_path) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&certificate_path, params.signed_by(&key, &self.0)?.pem())?;
        std::fs::write(&key_path, key.serialize_pem())?;
        Ok((certificate_path, key_path))
    }
}

/// A CA of its own for `folder`, a certificate for servers here and one for whoever calls them, and the settings that name all of it.
///
/// # Errors
/// A file cannot be written.
pub fn mutual(folder: &Path) -> Result<(Authority, TlsConfig)> {
    let ca = Authority::new()?;
    ca.write(folder, "ca")?;
    ca.issue(folder, "server", &HERE, NOW)?;
    ca.issue(folder, "client", &[LAYER], NOW)?;
    Ok((ca, in_folder(folder)))
}

/// The settings that name the files of [`mutual`].
#[must_use]
pub fn in_folder(folder: &Path) -> TlsConfig {
    TlsConfig {
        certificate: folder.join("server.pem"),
        key: folder.join("server.key"),
        client_ca: folder.join("ca.pem"),
        ca: folder.join("ca.pem"),
        client_certificate: folder.join("client.pem"),
        client_key: folder.join("client.key"),
        ..TlsConfig::default()
    }
}

/// What tonic's own client makes of the settings for calls: it shares no code with ours.
///
/// # Errors
/// A file cannot be read.
pub fn of_tonic(tls: &TlsConfig) -> Result<ClientTlsConfig> {
    let mut config = ClientTlsConfig::new();
    if let Some(ca) = tls.ca() {
        config = config.ca_certificate(Certificate::from_pem(std::fs::read(ca)?));
    }
    if let Some((certificate, key)) = tls.client() {
        config = config.identity(Identity::from_pem(std::fs::read(certificate)?, std::fs::read(key)?));
    }
    Ok(match tls.server_name() {
        Some(name) => config.domain_name(name),
        None => config,
    })
}
