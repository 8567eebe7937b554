//! `make test-docs`: types every command of the documentation and compares what is printed with what the pages say.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use integration_tests::docs::page::Page;
use integration_tests::docs::typist::{self, Typed};
use integration_tests::docs::world::World;
use integration_tests::processes::interrupted;
use tokio::time::Instant;

/// Types every command of the documentation and compares what is printed with what the pages say.
#[derive(Parser)]
struct Cli {
    /// Pages; README.md, docs/*.md and examples/clients/README.md if absent.
    pages: Vec<PathBuf>,
    /// Go on behind a difference, to the end of the page.
    #[arg(long)]
    all: bool,
    /// Print each command before it is typed.
    #[arg(long)]
    verbose: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = tokio::select! {
        outcome = Box::pin(type_all(&cli)) => outcome,
        _ = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    match outcome {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("test-docs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Types the pages; gives the number of differences.
async fn type_all(cli: &Cli) -> Result<usize> {
    let root = std::env::current_dir()?;
    ensure!(root.join("merganser.toml").exists(), "run it at the root of the repository, or by `make test-docs`");
    let bin = std::env::current_exe()?.parent().context("a program lies in a folder")?.to_owned();
    let place = bin.parent().context("the binaries lie in the target folder")?.join("docs");
    let paths = if cli.pages.is_empty() { pages(&root)? } else { cli.pages.clone() };
    let mut differences = 0;
    for path in paths {
        let page = Page::read(&root, &path)?;
        let name = path.display();
        match (page.is_typed, typist::missing(&page, &root)) {
            (false, _) if page.blocks.is_empty() => {}
            (false, _) => {
                let reason = page.not_typed.as_deref().unwrap_or("the page has no `test-docs: page`");
                println!("{name}: NOT TYPED, {} blocks; {reason}", page.blocks.len());
            }
            (true, Some(missing)) => println!("{name}: SKIPPED, {} blocks, for there is no {}", page.blocks.len(), missing.display()),
            (true, None) => {
                let since = Instant::now();
                let told = |what: &str| {
                    if cli.verbose {
                        println!("{what}")
                    }
                };
                let world = World::new(&root, &place, &bin)?;
                let typed = typist::type_page(&page, &world, cli.all, told).await?;
                report(&page, &typed, since.elapsed().as_secs());
                differences += typed.differences.len();
            }
        }
    }
    Ok(differences)
}

fn report(page: &Page, typed: &Typed, seconds: u64) {
    let name = page.path.display();
    for (command, difference) in &typed.differences {
        println!("{name}:{}: {command}\n{difference}", difference.line);
    }
    println!("{name}: {} commands typed, {} blocks not to be typed, {seconds} s", typed.commands, typed.not_run.len());
    for (line, reason) in &typed.not_run {
        println!("  {name}:{line} not typed: {reason}");
    }
    if typed.without_pypi > 0 {
        println!("  SKIPPED {} commands: python3 with venv and pip, and a way to PyPI, would be needed", typed.without_pypi);
    }
}

/// Every page that could have commands, in the order of a reader.
fn pages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut docs = std::fs::read_dir(root.join("docs"))?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    docs.sort();
    let docs = docs.into_iter().map(|name| Path::new("docs").join(name)).filter(|path| path.extension().is_some_and(|e| e == "md"));
    let clients = PathBuf::from("examples/clients/README.md");
    Ok(std::iter::once(PathBuf::from("README.md")).chain(docs).chain(Some(clients).filter(|path| root.join(path).exists())).collect())
}
