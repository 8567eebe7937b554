//! `make load-test`: the servers under load beside an echo over the same hops, in one run; see [`integration_tests::load`].
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use integration_tests::load::calls::{Asker, Connections, Question};
use integration_tests::load::disturbance::{Disturbance, EVENTS_PER_SECOND, under_load};
use integration_tests::load::echo::{self, Recorded};
use integration_tests::load::history::History;
use integration_tests::load::ingest::{self, Source, Way};
use integration_tests::load::machine;
use integration_tests::load::report::{Report, Row, put_into};
use integration_tests::load::tally::{Figures, Tally};
use integration_tests::load::world::{EchoProcess, World};
use integration_tests::load::{closed, open};
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rates of the ladder, in capacities.
const LADDER: [f64; 8] = [0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1];
/// A rung is kept up if so much of it is answered,
const KEPT_UP: f64 = 0.98;
/// and its 99th percentile is below so many microseconds.
const KNEE_P99_US: u64 = 50_000;
/// Callers with whom the capacity is found.
const CAPACITY_CALLERS: usize = 64;
/// Questions for many in flight that a server of two cores lets in; it refuses more.
const MANY_IN_FLIGHT: usize = 16;
const INGEST: [Way; 6] =
    [Way::Unary(1), Way::Unary(16), Way::Unary(64), Way::Streams(1, 1_000), Way::Streams(2, 1_000), Way::Streams(16, 1)];

#[derive(Parser)]
#[command(about = "Merganser under load, beside an echo over the same hops")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Users; every fifth has an event in the realtime view.
    #[arg(long, default_value_t = 100_000)]
    users: u64,
    /// Days of history, an event of each user on each.
    #[arg(long, default_value_t = 12)]
    days: u64,
    /// Seconds of each row.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Calls in flight in the closed loop.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 64, 256])]
    in_flight: Vec<usize>,
    /// Parts of the run.
    #[arg(long, value_delimiter = ',', default_values_t = ["questions".to_owned(), "ladder".into(), "disturbances".into(), "ingest".into()])]
    parts: Vec<String>,
    /// Where the report goes.
    #[arg(long, default_value = "target/load-test")]
    out: PathBuf,
    /// A report.json of an earlier run to compare with.
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// A document with the marks of a load test, into which the tables are put.
    #[arg(long)]
    document: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// The echo alone, as the load test starts it: gives the answers of a file.
    #[command(hide = true)]
    Echo {
        /// Recorded answers.
        recorded: PathBuf,
        /// The address of the echo that is asked first.
        #[arg(long)]
        back: Option<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Some(Command::Echo { recorded, back }) => {
            let serve = async { echo::serve(Recorded::read(recorded)?, back.as_deref()).await };
            Box::pin(serve).await
        }
        None => Box::pin(run(&cli)).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("merganser-load-test-").tempdir()?;
    let mut report = Report::new(machine::environment(folder.path(), cli.users, cli.days)?);
    for (name, value) in &report.environment {
        println!("{name}: {value}");
    }
    println!("making {} users with {} days of history…", cli.users, cli.days);
    let mut world = World::make(folder.path(), History::new(cli.users, cli.days)?).await?;
    let measured = Box::pin(measure(cli, &mut world, folder.path(), &mut report)).await;
    if let Err(error) = measured {
        return Err(error.context(world.last_words()));
    }
    world.stop().await?;
    report.write(&cli.out)?;
    println!("\nreport: {}", cli.out.join("report.html").display());
    if let Some(baseline) = &cli.baseline {
        compare(&report, baseline)?;
    }
    if let Some(document) = &cli.document {
        put_into(document, "load-test", &report.markdown())?;
    }
    ensure!(report.wrong() == 0, "{} answers were not right", report.wrong());
    Ok(())
}

async fn measure(cli: &Cli, world: &mut World, folder: &Path, report: &mut Report) -> Result<()> {
    let recorded = folder.join("recorded");
    world.record().await?.write(&recorded)?;
    let back = EchoProcess::start(&recorded, None).await?;
    let front = EchoProcess::start(&recorded, Some(&back.address)).await?;
    let load = Load { time: Duration::from_secs(cli.seconds), back: &back.address, front: &front.address };
    for part in &cli.parts {
        match part.as_str() {
            "questions" => load.questions(world, &cli.in_flight, report).await?,
            "ladder" => load.ladder(world, report).await?,
            "disturbances" => Box::pin(load.disturbances(world, report)).await?,
            "ingest" => load.ingest(world, report).await?,
            other => anyhow::bail!("there is no part {other}; there are questions, ladder, disturbances and ingest"),
        }
    }
    Ok(())
}

/// What all parts share.
struct Load<'a> {
    time: Duration,
    back: &'a str,
    front: &'a str,
}

impl Load<'_> {
    async fn closed(&self, asker: Asker, callers: usize) -> (Tally, f64) {
        closed::run(move |random: &mut StdRng| asker.ask(random), callers, self.time).await
    }

    async fn open(&self, asker: Asker, per_second: f64) -> (Tally, f64) {
        open::run(move |random: &mut StdRng| asker.ask(random), per_second, self.time, CancellationToken::new()).await
    }

    /// Each kind of question at each number in flight, right after the echo's.
    async fn questions(&self, world: &World, in_flight: &[usize], report: &mut Report) -> Result<()> {
        const SECTION: &str = "questions, closed loop";
        for question in [Question::Total, Question::Buckets, Question::Many, Question::BatchOnly] {
            let most = if question == Question::Many { MANY_IN_FLIGHT } else { usize::MAX };
            for &callers in in_flight.iter().filter(|callers| **callers <= most) {
                let asker =
                    |address: &str| Ok::<_, anyhow::Error>(Asker::new(Connections::to(address, callers)?, question, &world.history));
                let row = |what: &str, outcome| Row::new(SECTION, what, format!("{callers} in flight"), outcome, question.users());
                let one_hop = row("echo, one hop", self.closed(asker(self.back)?.unchecked(), callers).await);
                let two_hops = row("echo, two hops", self.closed(asker(self.front)?.unchecked(), callers).await);
                let limit = if question == Question::BatchOnly { &one_hop } else { &two_hops }.figures.clone();
                let answers = row(question.name(), self.closed(asker(world.serving_address())?, callers).await).beside(&limit);
                report.add(one_hop);
                if question != Question::BatchOnly {
                    report.add(two_hops);
                }
                report.add(answers);
            }
        }
        Ok(())
    }

    /// Rates up to the knee and beyond, and half of the knee beside the echo.
    async fn ladder(&self, world: &World, report: &mut Report) -> Result<()> {
        const SECTION: &str = "ladder of rates, open loop";
        const HALF: &str = "half the knee, open loop";
        let asker = |address: &str| {
            Ok::<_, anyhow::Error>(Asker::new(Connections::to(address, CAPACITY_CALLERS)?, Question::Total, &world.history))
        };
        let (found, seconds) = self.closed(asker(world.serving_address())?, CAPACITY_CALLERS).await;
        let capacity = found.figures(seconds, 1).per_second;
        let rung = |section: &str, what: &str, rate: f64, outcome: (Tally, f64)| {
            Row::new(section, what, format!("{rate:.0}/s"), outcome, 1).aimed_at(rate)
        };
        for rate in LADDER.map(|step| step * capacity) {
            let row = rung(SECTION, "get, total", rate, self.open(asker(world.serving_address())?, rate).await);
            if keeps_up(&row.figures, rate) {
                report.knee_per_second = report.knee_per_second.max(rate);
            }
            report.add(row);
        }
        let half = report.knee_per_second / 2.0;
        ensure!(half > 0.0, "not even the lowest rate was kept up");
        let limit = rung(HALF, "echo, two hops", half, self.open(asker(self.front)?.unchecked(), half).await);
        let answers = rung(HALF, "get, total", half, self.open(asker(world.serving_address())?, half).await);
        let ratio = answers.figures.p99_us as f64 / limit.figures.p99_us as f64;
        report.add(limit);
        report.add(answers.noted(&format!("p99 is {ratio:.2} times the echo's")));
        Ok(())
    }

    async fn disturbances(&self, world: &mut World, report: &mut Report) -> Result<()> {
        let rate = if report.knee_per_second > 0.0 { report.knee_per_second / 2.0 } else { 1_000.0 };
        let section = format!("disturbances at {rate:.0} questions and {EVENTS_PER_SECOND} events a second, open loop");
        let asker = Asker::new(Connections::to(world.serving_address(), CAPACITY_CALLERS)?, Question::Total, &world.history);
        let mut quiet = 0;
        for what in [
            Disturbance::Nothing(self.time.as_secs()),
            Disturbance::FullRun,
            Disturbance::IncrementalRun,
            Disturbance::Rollback,
            Disturbance::SpeedLayerRestart,
        ] {
            let (tally, seconds, took) = under_load(world, &asker, rate, what).await.with_context(|| what.name())?;
            let row = Row::new(&section, what.name(), format!("{rate:.0}/s"), (tally, seconds), 1).aimed_at(rate);
            let p99 = row.figures.p99_us;
            let note = match what {
                Disturbance::Nothing(_) => {
                    quiet = p99;
                    String::new()
                }
                _ => format!("took {:.1} s; p99 {:.1} times the quiet one", took.as_secs_f64(), p99 as f64 / quiet as f64),
            };
            report.add(row.noted(&note));
        }
        Ok(())
    }

    async fn ingest(&self, world: &World, report: &mut Report) -> Result<()> {
        const SECTION: &str = "events going in, synced before each answer, closed loop";
        let source = Source::default();
        for way in INGEST {
            let row = |what: &str, outcome| Row::new(SECTION, what, way.name(), outcome, way.events());
            let limit = row("echo", ingest::run(self.back, way, &source, self.time).await?);
            let answers = row("append", ingest::run(world.speed_address()?, way, &source, self.time).await?).beside(&limit.figures);
            report.add(limit);
            report.add(answers);
        }
        Ok(())
    }
}

fn keeps_up(figures: &Figures, rate: f64) -> bool {
    figures.skipped == 0 && figures.errors.is_empty() && figures.p99_us < KNEE_P99_US && figures.per_second >= KEPT_UP * rate
}

/// Prints how each ratio to the limit was in an earlier run.
fn compare(report: &Report, baseline: &Path) -> Result<()> {
    let text = std::fs::read_to_string(baseline).with_context(|| baseline.display().to_string())?;
    let before: serde_json::Value = serde_json::from_str(&text).with_context(|| baseline.display().to_string())?;
    let rows = before["rows"].as_array().context("it has no rows")?;
    println!("\nof limit, before and now");
    for row in report.rows.iter().filter(|row| row.ratio.is_some()) {
        let same = rows.iter().find(|old| old["what"] == row.what && old["load"] == row.load && old["section"] == row.section);
        if let (Some(old), Some(now)) = (same.and_then(|old| old["ratio"].as_f64()), row.ratio) {
            println!("{:>30} {:>34} {old:>6.2} {now:>6.2}  {:+.0} %", row.what, row.load, (now / old - 1.0) * 100.0);
        }
    }
    Ok(())
}
