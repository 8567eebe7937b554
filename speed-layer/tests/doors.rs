//! What `speed-layer serve` says before it listens: settings that would let others read along, or that cannot be used, end it with code 2.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

/// Starts the server in a folder of its own; it has to end by itself.
fn serve(arguments: &[&str], settings: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("merganser.toml"), settings).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_speed-layer"));
    let Output { status, stderr, .. } = command.arg("serve").args(arguments).current_dir(folder.path()).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

/// Proves that plaintext on an address that others reach is refused as a setting, for both listeners, and that `--insecure` lets it through to
/// where the system says that this machine has no such address.
#[test]
fn plaintext_elsewhere() {
    for (listen, http, setting) in [("192.0.2.1:0", "", "grpc_address"), ("127.0.0.1:0", "192.0.2.1:0", "http_address")] {
        let (code, said) = serve(&["--listen", listen, "--http", http], "");
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(setting) && said.contains("--insecure") && said.contains("tls.certificate"), "{said}");
        for (flag, settings) in [(Some("--insecure"), ""), (None, "[tls]\ninsecure = true")] {
            let arguments: Vec<&str> = ["--listen", listen, "--http", http].into_iter().chain(flag).collect();
            let (code, said) = serve(&arguments, settings);
            assert_eq!(code, 1, "{said}");
            assert!(said.contains("cannot listen on 192.0.2.1:0"), "{said}");
        }
    }
}

/// Proves that files of `[tls]` that cannot be used are refused before the server listens, with the setting and the file.
#[test]
fn unusable_files() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = serve(&["--listen", &address], "[tls]\ncertificate = \"no.pem\"\nkey = \"no.key\"");
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("tls.certificate = \"no.pem\" cannot be read"), "{said}");
    let (code, said) = serve(&["--listen", &address], "[tls]\ncertificate = \"no.pem\"");
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("tls.key"), "{said}");
}
