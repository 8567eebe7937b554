//! The three programs as a shell meets them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use integration_tests::processes::built;
use serde_json::Value;
use tempfile::TempDir;

const PROGRAMS: [&str; 3] = ["speed-layer", "batch-layer", "serving-layer"];

/// The programs, in an empty folder where no server runs.
struct Shell {
    bin: PathBuf,
    folder: TempDir,
}

impl Shell {
    fn new() -> Self {
        Self { bin: built().unwrap(), folder: tempfile::tempdir().unwrap() }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null()).env_clear();
        command.env("PATH", std::env::var("PATH").unwrap()).env("RUST_LOG", "off");
        // Nobody listens on a port that cannot be had.
        for (setting, address) in [
            ("SPEED_LAYER__GRPC_ADDRESS", "127.0.0.1:1"),
            ("SPEED_LAYER__HTTP_ADDRESS", ""),
            ("SERVING_LAYER__GRPC_ADDRESS", "127.0.0.1:1"),
            ("SERVING_LAYER__HTTP_ADDRESS", ""),
            ("SERVING_LAYER__SPEED_LAYER", "http://127.0.0.1:1"),
            ("BATCH_LAYER__SPEED_LAYER", "http://127.0.0.1:1"),
        ] {
            command.env(format!("MERGANSER_{setting}"), address);
        }
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program, arguments).output().unwrap()
    }

    fn bash(&self, script: &str) -> String {
        let mut command = self.command("", &[]);
        let path = format!("{}:{}", self.bin.display(), std::env::var("PATH").unwrap());
        command = {
            let mut bash = Command::new("bash");
            bash.args(["-c", script]).current_dir(self.folder.path()).env("PATH", path);
            bash.envs(
                command
                    .get_envs()
                    .filter(|(name, _)| *name != "PATH")
                    .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))),
            );
            bash
        };
        let output = command.output().unwrap();
        assert!(output.status.success(), "{script}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Proves that bash takes the completions as they are, and offers what begins as what was typed.
#[test]
fn completions() {
    let shell = Shell::new();
    for (program, typed, offered) in [
        ("batch-layer", "batch-layer roll", "rollback"),
        ("speed-layer", "speed-layer dead-letter pr", "prune"),
        ("serving-layer", "serving-layer get x --consis", "--consistency"),
    ] {
        let words: Vec<&str> = typed.split(' ').collect();
        let script = format!(
            "source <({program} completions bash)\nCOMP_WORDS=({typed}) COMP_CWORD={}\n_{} {program} '{}' '{}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.len() - 1,
            program.replace('-', "__"),
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let offers = shell.bash(&script);
        assert!(offers.lines().any(|offer| offer == offered), "{typed}: {offers}");
    }
    for other in ["zsh", "fish", "elvish", "powershell"] {
        assert!(!shell.run("batch-layer", &["completions", other]).stdout.is_empty());
    }
}

/// Proves that there is a man page of every sub-command, and that groff finds nothing wrong with them, where it is installed.
#[test]
fn man_pages() {
    let shell = Shell::new();
    for program in PROGRAMS {
        assert!(text(&shell.run(program, &["man"]).stdout).contains(".TH"), "{program}");
        assert_eq!(code(&shell.run(program, &["man", "man1"])), 0);
    }
    let pages: Vec<_> = std::fs::read_dir(shell.folder.path().join("man1")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for page in ["speed-layer-dead-letter-replay.1", "batch-layer-run.1", "serving-layer-rows.1"] {
        assert!(pages.iter().any(|path| path.ends_with(page)), "{page}");
    }
    let Ok(checked) = Command::new("groff").args(["-Kutf8", "-man", "-Tutf8", "-ww", "-z"]).args(&pages).output() else { return };
    assert_eq!(text(&checked.stderr), "");
}

/// Proves that a reader who goes away is told nothing and is no failure, and that a reader who stays gets everything.
#[test]
fn a_reader_goes_away() {
    let shell = Shell::new();
    for command in
        ["batch-layer versions", "batch-layer man", "speed-layer dead-letter list", "serving-layer completions bash", "batch-layer doctor"]
    {
        let said = shell.bash(&format!("set -o pipefail; {{ {command} 2>err; echo $? >code; }} | true; cat code err"));
        assert_eq!(said, "0\n", "{command}");
    }
}

/// Proves that colours are only where somebody sees them, or where they are forced, and that NO_COLOR is heard.
#[test]
fn colours() {
    let shell = Shell::new();
    let coloured = |variables: &[(&str, &str)], arguments: &[&str]| {
        let output = shell.command("batch-layer", arguments).envs(variables.iter().copied()).output().unwrap();
        (text(&output.stdout) + &text(&output.stderr)).contains('\u{1b}')
    };
    for arguments in [&["doctor"][..], &["--help"], &["rollback", "1"]] {
        assert!(!coloured(&[], arguments) && !coloured(&[("NO_COLOR", "1")], arguments), "{arguments:?}");
        assert!(coloured(&[("CLICOLOR_FORCE", "1")], arguments), "{arguments:?}");
    }
}

/// Proves the exit codes that the reference promises, and that each complaint ends with what to do.
#[test]
fn exit_codes() {
    let shell = Shell::new();
    std::fs::write(shell.folder.path().join("bad.toml"), "[log]\npartition = 3\n").unwrap();
    std::fs::write(shell.folder.path().join("events.jsonl"), "{}\n").unwrap();
    for (program, arguments, expected, said) in [
        ("batch-layer", &["versions"][..], 0, "no version yet; `batch-layer run`"),
        ("batch-layer", &["versions", "--view", "nope"], 2, "there is no view nope; there are user_stats"),
        ("batch-layer", &["verify", "--view", "nope"], 2, "there is no view nope; there are user_stats"),
        ("batch-layer", &["run", "--view", "nope"], 2, "is not declared"),
        ("batch-layer", &["run"], 4, "start"),
        ("batch-layer", &["rollback", "1"], 1, "there is no version"),
        ("batch-layer", &["--config", "bad.toml", "versions"], 2, "did you mean `partitions`?"),
        ("speed-layer", &["--config", "bad.toml", "serve"], 2, "did you mean `partitions`?"),
        ("serving-layer", &["--config", "bad.toml", "get", "x"], 2, "did you mean `partitions`?"),
        ("serving-layer", &["get", "x"], 4, "start one with `serving-layer serve`"),
        ("serving-layer", &["rows", "user_stats"], 2, "required"),
        ("serving-layer", &["rows", "user_stats", "--null", "3"], 2, "--null 3"),
        ("speed-layer", &["dead-letter", "show", "abc"], 2, "`speed-layer dead-letter list --all`"),
        ("speed-layer", &["load", "events.jsonl", "--address", "not an address"], 2, "write http://host:port"),
        ("run-servers", &["--help"], 0, "until Ctrl-C"),
    ] {
        let output = shell.run(program, arguments);
        let all = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(code(&output), expected, "{program} {arguments:?}: {all}");
        assert!(all.contains(said), "{program} {arguments:?}: {all}");
    }
    for program in PROGRAMS {
        let help = text(&shell.run(program, &["--help"]).stdout);
        assert!(help.contains("Exit codes:") && help.contains("130"), "{help}");
    }
}

/// Proves that no server speaks plaintext to other machines unless it is told to, and that it says what to do.
#[test]
fn plaintext_elsewhere() {
    let shell = Shell::new();
    for (program, setting) in [("speed-layer", "SPEED_LAYER__GRPC_ADDRESS"), ("serving-layer", "SERVING_LAYER__HTTP_ADDRESS")] {
        let mut command = shell.command(program, &["serve"]);
        let refused = command.env(format!("MERGANSER_{setting}"), "0.0.0.0:0").output().unwrap();
        let said = text(&refused.stderr);
        assert_eq!(code(&refused), 2, "{program}: {said}");
        assert!(said.contains("0.0.0.0:0") && said.contains("--insecure") && said.contains("tls.certificate"), "{program}: {said}");
    }
}

/// Proves that an answer in JSON is one document with the fields that are promised, and that complaints stay out of it.
#[test]
fn json() {
    let shell = Shell::new();
    let document = |program: &str, arguments: &[&str]| -> Value {
        let output = shell.run(program, arguments);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}: {}", text(&output.stdout)))
    };
    let none: [Value; 0] = [];
    let versions = document("batch-layer", &["versions", "--output", "json"]);
    assert_eq!((&versions["view"], versions["versions"].as_array().unwrap()), (&Value::from("user_stats"), &none.to_vec()));
    let run = document("batch-layer", &["run", "--output", "json"]);
    assert_eq!((&run["exit_code"], &run["runs"][0]["outcome"]), (&Value::from(4), &Value::from("failed")));
    assert!(run["runs"][0]["error"].as_str().unwrap().contains("speed layer"), "{run}");
    for (arguments, field) in [
        (&["imports"][..], "imports"),
        (&["erasures"], "erasures"),
        (&["expire", "--dry-run"], "views"),
        (&["compact"], "merged_files"),
        (&["verify"], "version"),
    ] {
        let answer = document("batch-layer", &[arguments, &["--output", "json"]].concat());
        assert!(answer.get(field).is_some(), "{arguments:?}: {answer}");
    }
    let listing = document("speed-layer", &["dead-letter", "list", "--output", "json"]);
    assert_eq!(listing["outstanding"], 0);
    for program in PROGRAMS {
        let doctor = document(program, &["doctor", "--output", "json"]);
        assert_eq!(doctor["program"], program);
        let checks: Vec<_> =
            doctor["findings"].as_array().unwrap().iter().map(|finding| finding["check"].as_str().unwrap().to_owned()).collect();
        for check in ["config", "disk", "clock", "ports", "store", "builds", "files"] {
            assert!(checks.iter().any(|found| found == check), "{program}: {checks:?}");
        }
    }
}

/// Proves that doctor finds what would keep a server from its work, exits 1 then, and leaves nothing behind.
#[test]
fn doctor() {
    let shell = Shell::new();
    let healthy = shell.run("batch-layer", &["doctor"]);
    assert_eq!(code(&healthy), 0, "{}", text(&healthy.stdout));
    assert_eq!(std::fs::read_dir(shell.folder.path()).unwrap().count(), 0, "doctor left something behind");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut command = shell.command("speed-layer", &["doctor"]);
    let taken = command.env("MERGANSER_SPEED_LAYER__HTTP_ADDRESS", &address).output().unwrap();
    let said = text(&taken.stdout);
    assert_eq!(code(&taken), 1, "{said}");
    assert!(said.contains(&format!("✘ ports    speed_layer.http_address = {address}: another program has it")), "{said}");
    assert!(said.contains("next: stop that one"), "{said}");
    let nowhere = Path::new("/proc/nowhere");
    let mut command = shell.command("speed-layer", &["doctor"]);
    let unwritable = command.env("MERGANSER_LOG__DIR", nowhere).output().unwrap();
    assert_eq!(code(&unwritable), 1, "{}", text(&unwritable.stdout));
}
