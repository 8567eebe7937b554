//! `[tls]`: what the servers show, and what calls to them trust and show. Paths only; whoever speaks TLS reads the files.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// `[tls]`, the same for all three layers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// PEM file of what the servers show, their own certificate first; empty means that they speak plaintext.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// PEM file of the CAs whose certificates clients may show; empty means that none is asked for.
    pub client_ca: PathBuf,
    /// Whether a gRPC client must show one.
    pub client_certificates: ClientCertificates,
    /// The same for the HTTP address.
    pub http_client_certificates: ClientCertificates,
    /// PEM file of the CAs that calls to `https://` trust; empty means the public ones.
    pub ca: PathBuf,
    /// PEM file of what calls show, their own certificate first; empty means nothing.
    pub client_certificate: PathBuf,
    /// PEM file of its private key.
    pub client_key: PathBuf,
    /// The name that a called server's certificate must have; empty means that of its address.
    pub server_name: String,
    /// Whether plaintext may leave the machine.
    pub insecure: bool,
}

/// What is asked of clients where there is a `client_ca`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificates {
    /// Whoever shows none is refused.
    #[default]
    Required,
    /// Whoever shows none is let in without.
    Optional,
}

impl TlsConfig {
    /// Certificate and key of the servers, if they speak TLS.
    #[must_use]
    pub fn server(&self) -> Option<(&Path, &Path)> {
        pair(&self.certificate, &self.key)
    }

    /// Who signs certificates of clients, if they are asked for any.
    #[must_use]
    pub fn client_ca(&self) -> Option<&Path> {
        given(&self.client_ca)
    }

    /// Whom calls trust, if not the public CAs.
    #[must_use]
    pub fn ca(&self) -> Option<&Path> {
        given(&self.ca)
    }

    /// Certificate and key that calls show, if they show any.
    #[must_use]
    pub fn client(&self) -> Option<(&Path, &Path)> {
        pair(&self.client_certificate, &self.client_key)
    }

    /// The name to expect of called servers, if it is not that of their address.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        Some(self.server_name.as_str()).filter(|name| !name.is_empty())
    }

    /// How a server with these settings is called that listens on `address`: on all addresses of this machine means on loopback too.
    #[must_use]
    pub fn url_of(&self, address: &str) -> String {
        let scheme = if self.server().is_some() { "https" } else { "http" };
        match address.parse::<SocketAddr>() {
            Ok(mut address) if address.ip().is_unspecified() => {
                let loopback = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
                address.set_ip(loopback);
                format!("{scheme}://{address}")
            }
            _ => format!("{scheme}://{address}"),
        }
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let together = [
            ("certificate", &self.certificate, "key", &self.key),
            ("client_certificate", &self.client_certificate, "client_key", &self.client_key),
        ];
        for (one, its_path, other, other_path) in together {
            let (missing, there) = match (given(its_path), given(other_path)) {
                (Some(_), None) => (other, one),
                (None, Some(_)) => (one, other),
                _ => continue,
            };
            return Err(format!("tls.{there} is of no use without tls.{missing}; name both files, or none"));
        }
        if self.client_ca().is_some() && self.server().is_none() {
            return Err(
                "tls.client_ca: servers that speak plaintext cannot ask for certificates; name tls.certificate and tls.key".to_owned()
            );
        }
        if self.server_name.contains(['/', ':']) && self.server_name.parse::<IpAddr>().is_err() {
            return Err(format!("tls.server_name = \"{}\" is no name; write a host name or an IP address alone", self.server_name));
        }
        Ok(())
    }
}

fn given(path: &Path) -> Option<&Path> {
    Some(path).filter(|path| !path.as_os_str().is_empty())
}

fn pair<'a>(certificate: &'a Path, key: &'a Path) -> Option<(&'a Path, &'a Path)> {
    given(certificate).zip(given(key))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse("test.toml", text, []).map_err(|e| e.to_string())
    }

    /// Proves that halves of pairs, client certificates without TLS and names that are addresses are refused, saying what is missing.
    #[test]
    fn refusals() {
        for (text, said) in [
            ("certificate = \"a.pem\"", "tls.key"),
            ("key = \"a.pem\"", "tls.certificate"),
            ("client_certificate = \"a.pem\"", "tls.client_key"),
            ("client_key = \"a.pem\"", "tls.client_certificate"),
            ("client_ca = \"a.pem\"", "name tls.certificate and tls.key"),
            ("server_name = \"https://speed:7401\"", "is no name"),
            ("client_certificates = \"maybe\"", "maybe"),
            ("client_cas = \"a.pem\"", "did you mean `client_ca`?"),
        ] {
            let error = parse(&format!("[tls]\n{text}")).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        let all = "[tls]\ncertificate = \"c\"\nkey = \"k\"\nclient_ca = \"a\"\nclient_certificates = \"optional\"\nserver_name = \"::1\"";
        let tls = parse(all).unwrap().tls;
        assert_eq!(tls.server(), Some((Path::new("c"), Path::new("k"))));
        assert_eq!((tls.client_certificates, tls.http_client_certificates), (ClientCertificates::Optional, ClientCertificates::Required));
    }

    /// Proves that a server is called by the scheme that it speaks, and on loopback where it listens on all addresses.
    #[test]
    fn called() {
        let plain = TlsConfig::default();
        let tls = TlsConfig { certificate: "c".into(), key: "k".into(), ..TlsConfig::default() };
        assert_eq!(plain.url_of("127.0.0.1:7401"), "http://127.0.0.1:7401");
        assert_eq!(tls.url_of("0.0.0.0:7401"), "https://127.0.0.1:7401");
        assert_eq!(tls.url_of("[::]:7401"), "https://[::1]:7401");
        assert_eq!(tls.url_of("10.0.0.7:7401"), "https://10.0.0.7:7401");
    }

    /// Proves that layers may be called over TLS, and by nothing else than HTTP.
    #[test]
    fn addresses() {
        assert!(parse("[serving_layer]\nspeed_layer = \"https://speed.example.org:7401\"").is_ok());
        assert!(parse("[batch_layer]\nspeed_layer = \"https://[::1]:7401\"").is_ok());
        assert!(parse("[batch_layer]\nspeed_layer = \"ftp://speed:7401\"").unwrap_err().contains("https://host:port"));
    }
}
