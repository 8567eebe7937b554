//! PEM files, and what is in them.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// Larger than the bundle of all public CAs. What is larger is some other file.
const MAX_BYTES: u64 = 4 << 20;

/// A file by the setting that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) setting: &'static str,
    pub(super) path: PathBuf,
}

impl Named {
    pub(super) fn new(setting: &'static str, path: &Path) -> Self {
        Self { setting, path: path.to_owned() }
    }

    pub(super) fn read(&self) -> Result<Vec<u8>, TlsError> {
        let failed = |source| TlsError::Read { setting: self.setting, path: self.path.clone(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&self.path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 MiB, and no PEM file of certificates")));
        }
        Ok(bytes)
    }

    pub(super) fn wrong(&self, wrong: impl Into<String>) -> TlsError {
        TlsError::File { setting: self.setting, path: self.path.clone(), wrong: wrong.into() }
    }

    /// The certificates in `bytes`, at least one.
    pub(super) fn certificates(&self, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let found = CertificateDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>().map_err(|e| self.wrong(damaged(&e)))?;
        if found.is_empty() {
            return Err(self.wrong("there is no certificate in it; it has to be a PEM file with -----BEGIN CERTIFICATE-----"));
        }
        Ok(found)
    }

    /// The first private key in `bytes`.
    pub(super) fn key(&self, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(bytes).map_err(|error| match error {
            pem::Error::NoItemsFound if bytes.windows(9).any(|word| word == b"ENCRYPTED") => {
                self.wrong("the key is encrypted; servers start unattended, so store it in the clear and readable by them alone (openssl pkey -in … -out …)")
            }
            pem::Error::NoItemsFound => self.wrong("there is no private key in it; it has to be a PEM file with -----BEGIN PRIVATE KEY-----"),
            error => self.wrong(damaged(&error)),
        })
    }

    /// The CAs in `bytes`, at least one.
    pub(super) fn cas(&self, bytes: &[u8]) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(bytes)? {
            roots.add(certificate).map_err(|e| self.wrong(format!("a certificate in it is none of a CA: {e}")))?;
        }
        Ok(roots)
    }
}

fn damaged(error: &pem::Error) -> String {
    format!("it is damaged: {error}")
}
