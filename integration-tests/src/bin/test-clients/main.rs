//! `make test-clients`: the example clients, each by the command of its line in `examples/clients/README.md`, against servers that are started
//! for it: once as they are, and once behind doors with TLS and a token that lose one call of each kind on the way. What a client prints has
//! to be what the README says. Then gRPC-Web by a client of the trade, and the example page in a browser.
//!
//! Everything that is installed or generated goes to a copy of the examples under the target folder. What this machine cannot have is skipped,
//! and said aloud. With arguments, such as `Go browser`, only checks are made whose names have one of them.
#![allow(clippy::print_stdout, clippy::print_stderr)]

/// What one client is told to do.
mod commands;
/// TLS, a token, and calls that are lost.
mod door;
/// Servers with a few events, and more of them while somebody watches.
mod servers;
/// The copy of the examples.
mod tree;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;

use commands::{Client, Commands, Outcome};
use door::Door;
use servers::Servers;
use tree::Tree;

/// The clients, by the first column of the README's table: what has to be installed, and how what they build upon is fetched.
const CLIENTS: [Client; 4] = [
    Client { name: "Python", folder: "examples/clients/python", programs: &["python3"], fetch: commands::PYTHON },
    Client { name: "TypeScript", folder: "examples/clients/typescript", programs: &["node", "npm"], fetch: commands::NPM },
    Client { name: "Go", folder: "examples/clients/go", programs: &["go"], fetch: "go mod download" },
    Client { name: "Java", folder: "examples/clients/java", programs: &["java", "mvn"], fetch: "mvn -q -B validate" },
];
/// What asks over gRPC-Web.
const WEB: Client = Client { name: "gRPC-Web", folder: "integration-tests/grpc-web", programs: &["node", "npm"], fetch: commands::NPM };
/// Names that a browser has.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

#[tokio::main]
async fn main() -> ExitCode {
    match play().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            println!("0 passed, 1 failed, 0 skipped");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing failed.
async fn play() -> Result<bool> {
    let tree = Tree::copy(Path::new("."))?;
    let mut servers = Servers::start().await?;
    let commands = Commands::new(&tree);
    let mut tally = Tally::of(std::env::args().skip(1).collect());
    let names = |client: &Client| {
        [format!("{}, as it is", client.name), format!("{}, through TLS, with a token, a call of each kind lost", client.name)]
    };
    let web_names = ["gRPC-Web, connect-web and the page's own client", "gRPC-Web, the example page in a browser"];
    let clients: Vec<&Client> = CLIENTS.iter().filter(|client| names(client).iter().any(|name| tally.wants(name))).collect();
    println!("fetching what the clients build upon");
    let (missing, web_missing) = tokio::join!(join_all(clients.iter().map(|client| commands.fetch(client))), commands.fetch(&WEB));
    for (client, missing) in clients.into_iter().zip(missing) {
        let [as_it_is, behind_doors] = names(client);
        tally.count(&as_it_is, missing.as_deref(), plain(&commands, &tree, &servers, client)).await;
        tally.count(&behind_doors, missing.as_deref(), through_doors(&commands, &tree, &servers, client)).await;
    }
    let [of_the_trade, in_a_browser] = web_names;
    tally.count(of_the_trade, web_missing.as_deref(), web(&commands, &tree, &mut servers)).await;
    tally.count(in_a_browser, web_missing.as_deref(), page(&commands, &tree, &mut servers)).await;
    servers.stop().await?;
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    Ok(tally.failed == 0)
}

/// By the README's command, word for word but for the addresses.
async fn plain(commands: &Commands, tree: &Tree, servers: &Servers, client: &Client) -> Outcome {
    let run = async {
        let command = tree.command(client.name, &servers.speed, &servers.serving)?;
        commands.run(client.name, &command, &[]).await
    };
    Outcome::of_text(run.await, &tree.expected)
}

/// The same with other addresses, a file with whom to trust, and a token.
async fn through_doors(commands: &Commands, tree: &Tree, servers: &Servers, client: &Client) -> Outcome {
    let run = async {
        let (speed, serving) = (Door::open(&servers.speed).await?, Door::open(&servers.serving).await?);
        let ca_file = tree.file(&format!("{}-ca.pem", client.name));
        std::fs::write(&ca_file, door::certificates()?.authority.as_bytes())?;
        let command = tree.command(client.name, &speed.address, &format!("{} {}", serving.address, ca_file.display()))?;
        let printed = commands.run(client.name, &command, &[("MERGANSER_TOKEN", door::TOKEN)]).await?;
        // Three appends, and one lost; three questions, the last of them four times, and one lost; a watch, and one lost.
        let calls = [(speed.calls("AppendEvents"), 4), (serving.calls("GetUserStats"), 7), (serving.calls("WatchUserStats"), 2)];
        for (found, expected) in calls {
            ensure!(found == expected, "the service config makes it {expected} calls, and there were {found}:\n{printed}");
        }
        anyhow::Ok(printed)
    };
    Outcome::of_text(run.await, &tree.expected)
}

async fn web(commands: &Commands, tree: &Tree, servers: &mut Servers) -> Outcome {
    let run = async {
        let descriptors = tree.file("merganser.v1.binpb");
        std::fs::write(&descriptors, merganser_proto::FILE_DESCRIPTOR_SET)?;
        let client = tree.root().join("examples/clients/browser/client.js");
        let mut command = format!("cd {} && node check.mjs", WEB.folder);
        let _written = write!(command, " {} '{}' '{}' {}", servers.web, descriptors.display(), client.display(), servers::USER);
        servers.while_growing(commands.run(WEB.name, &command, &[])).await
    };
    Outcome::of_text(run.await, "ok\n")
}

async fn page(commands: &Commands, tree: &Tree, servers: &mut Servers) -> Outcome {
    let Some(browser) = BROWSERS.iter().find_map(|name| commands::program(name)) else {
        return Outcome::Skipped("there is no chromium".to_owned());
    };
    if commands::program("python3").is_none() {
        return Outcome::Skipped("there is no python3".to_owned());
    }
    let run = async {
        let _pages = commands.serve(&tree.page_command(servers.page_port)?, servers.page_port).await.context("the pages are not served")?;
        let mut command = format!("cd {} && node page.mjs '{}'", WEB.folder, browser.display());
        let _written = write!(command, " http://127.0.0.1:{}/ {} {}", servers.page_port, servers.web, servers::USER);
        servers.while_growing(commands.run("page", &command, &[])).await
    };
    Outcome::of_text(run.await, "ok\n")
}

/// What was counted.
struct Tally {
    wanted: Vec<String>,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    /// Nothing yet. Checks that have none of `wanted` in their names are not made; none at all means every one.
    fn of(wanted: Vec<String>) -> Self {
        Self { wanted, passed: 0, failed: 0, skipped: 0 }
    }

    fn wants(&self, what: &str) -> bool {
        self.wanted.is_empty() || self.wanted.iter().any(|part| what.contains(part.as_str()))
    }

    /// Makes a check, if it is wanted and nothing is missing for it, and says what became of it.
    async fn count(&mut self, what: &str, missing: Option<&str>, check: impl Future<Output = Outcome>) {
        let outcome = match missing {
            _ if !self.wants(what) => return,
            Some(why) => Outcome::Skipped(why.to_owned()),
            None => check.await,
        };
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("passed   {what}");
            }
            Outcome::Failed(why) => {
                self.failed += 1;
                println!("FAILED   {what}\n{why}");
            }
            Outcome::Skipped(why) => {
                self.skipped += 1;
                println!("SKIPPED  {what}: {why}");
            }
        }
    }
}
