//! A page, typed from its first line to its last.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use super::page::{Act, Block, Page, Step};
use super::pattern::{Difference, compare};
use super::terminal::Terminal;
use super::world::World;

/// The terminal of blocks that name none.
const FIRST: &str = "";
/// Words behind the time in a line of a log that says nothing wrong.
const LOGGED: [&str; 4] = ["TRACE", "DEBUG", "INFO", "WARN"];

/// Commands that ask a server, and change nothing.
const ASKS: [&str; 3] = ["serving-layer get ", "serving-layer rows ", "ask "];
/// A reader is slower than a serving layer, which looks for new versions twice a second: an answer that is not yet what the page says
/// is asked for again, for so long.
const SEEN_AFTER: Duration = Duration::from_secs(5);
/// Between two such questions.
const ASK_PAUSE: Duration = Duration::from_millis(200);

/// What became of a page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// Commands that were typed and printed what the page says.
    pub commands: usize,
    /// Commands that were left out for want of Python's packages.
    pub without_pypi: usize,
    /// Blocks that are not to be typed: their lines, and why.
    pub not_run: Vec<(usize, String)>,
    /// Where page and programs part, with the command.
    pub differences: Vec<(String, Difference)>,
}

/// Types `page` in `world`, up to its first difference, or to its end if `goes_on`; a command that never ends ends the page too, and is a
/// difference. `told` hears of each command.
///
/// # Errors
/// There is no shell.
pub async fn type_page(page: &Page, world: &World, goes_on: bool, told: impl Fn(&str)) -> Result<Typed> {
    let has_pypi = page.needs_pypi.is_empty() || world.has_pypi();
    let mut typist = Typist { page, world, has_pypi, terminals: BTreeMap::new(), typed: Typed::default() };
    for block in &page.blocks {
        if let Some(reason) = &block.not_run {
            typist.typed.not_run.push((block.line, reason.clone()));
            continue;
        }
        let can_go_on = typist.type_block(block, &told).await?;
        if !can_go_on || (!goes_on && !typist.typed.differences.is_empty()) {
            break;
        }
    }
    for (_, terminal) in std::mem::take(&mut typist.terminals) {
        terminal.close().await;
    }
    Ok(typist.typed)
}

struct Typist<'a> {
    page: &'a Page,
    world: &'a World,
    has_pypi: bool,
    terminals: BTreeMap<String, Terminal>,
    typed: Typed,
}

impl Typist<'_> {
    /// Gives whether the page can go on.
    async fn type_block(&mut self, block: &Block, told: &impl Fn(&str)) -> Result<bool> {
        let name = block.terminal.as_deref().unwrap_or(FIRST);
        if !self.terminals.contains_key(name) {
            let commands = self.world.folder.join("target/typed").join(if name == FIRST { "first" } else { name });
            let terminal = Terminal::open(&self.world.folder, &commands, &self.world.environment)?;
            self.terminals.insert(name.to_owned(), terminal);
        }
        for (index, step) in block.steps.iter().enumerate() {
            if self.needs_what_is_not_there(step) {
                self.typed.without_pypi += 1;
                continue;
            }
            let next = block.steps.get(index + 1);
            // It goes on until the key is pressed, or beyond the block.
            let goes_on = match next {
                Some(next) => next.act == Act::Interrupt,
                None => name != FIRST,
            };
            let what = match &step.act {
                Act::Type(command) => command.lines().next().unwrap_or_default().to_owned(),
                Act::Interrupt => "^C".to_owned(),
                Act::Look => "what is printed next".to_owned(),
            };
            told(&format!("{}:{}: {what}", self.page.path.display(), step.line));
            let terminal = self.terminals.get_mut(name).expect("it was opened above");
            match act_patiently(step, self.world, terminal, goes_on).await {
                Ok(Ok(())) => self.typed.commands += usize::from(matches!(step.act, Act::Type(_))),
                Ok(Err(difference)) => self.typed.differences.push((what, difference)),
                Err(error) => {
                    let difference = Difference { line: step.line, expected: None, printed: Some(format!("{error:#}")) };
                    self.typed.differences.push((what, difference));
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn needs_what_is_not_there(&self, step: &Step) -> bool {
        let Act::Type(command) = &step.act else { return false };
        let first = command.split_whitespace().next().unwrap_or_default();
        !self.has_pypi && self.page.needs_pypi.contains(first)
    }
}

/// Does what the step says and compares what is printed; asks again where the answer may come a moment later.
async fn act_patiently(step: &Step, world: &World, terminal: &mut Terminal, goes_on: bool) -> Result<Result<(), Difference>> {
    let deadline = Instant::now() + SEEN_AFTER;
    let asks = matches!(&step.act, Act::Type(command) if !goes_on && ASKS.iter().any(|ask| command.starts_with(ask)));
    loop {
        let outcome = act(step, world, terminal, goes_on).await?;
        if outcome.is_ok() || !asks || Instant::now() > deadline {
            return Ok(outcome);
        }
        sleep(ASK_PAUSE).await;
    }
}

/// Does what the step says and compares what is printed.
async fn act(step: &Step, world: &World, terminal: &mut Terminal, goes_on: bool) -> Result<Result<(), Difference>> {
    match &step.act {
        Act::Type(command) => terminal.type_in(&world.with_ports(command)).await?,
        Act::Interrupt => terminal.interrupt()?,
        Act::Look => {}
    }
    let judge = |printed: &str| {
        let text = world.with_default_ports(printed);
        let lines: Vec<&str> = text.lines().filter(|line| !is_logged(line)).collect();
        compare(&step.expected, &lines)
    };
    let printed = match goes_on {
        true => terminal.until(|printed| judge(printed).is_ok()).await?,
        false => terminal.end().await?,
    };
    Ok(judge(&printed))
}

/// Whether it is a line of a log, which pages leave out. One at ERROR is not: a reader would wonder.
fn is_logged(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let (time, level) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    time.len() >= "2026-11-21T12:34:56Z".len() && time.as_bytes().get(10) == Some(&b'T') && time.ends_with('Z') && LOGGED.contains(&level)
}

/// Whether what the page needs is there.
#[must_use]
pub fn missing<'a>(page: &'a Page, root: &Path) -> Option<&'a Path> {
    page.needs.iter().find(|path| !root.join(path).exists()).map(std::path::PathBuf::as_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a page whose words are true passes, that one false word is found at its line and with its command, that a command of
    /// another terminal goes on while others are typed, and that what is not to be typed is told.
    #[tokio::test]
    async fn a_page() {
        let folder = tempfile::tempdir().unwrap();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = "<!-- test-docs: page -->\n```console\n$ ls merganser.toml\nmerganser.toml\n```\n<!-- test-docs: terminal other -->\n```console\n$ (echo 127.0.0.1:7401; tail -f /dev/null)\n127.0.0.1:7401\n…\n```\n```console\n$ echo 127.0.0.1:7401 > later\n$ echo $MERGANSER_SERVING_LAYER__GRPC_ADDRESS\n127.0.0.1:7402\n```\n<!-- test-docs: not run, it is about the moon -->\n```console\n$ fly\n```\n<!-- test-docs: terminal other -->\n```console\n^C\n```\n```console\n$ echo one; echo two\none\nthree\n```\n";
        let page = Page::parse(Path::new("a.md"), text).unwrap();
        let world = World::new(&repository, folder.path(), folder.path()).unwrap();
        let typed = type_page(&page, &world, false, |_| {}).await.unwrap();
        assert_eq!((typed.commands, typed.without_pypi), (4, 0), "{typed:?}");
        assert_eq!(typed.not_run, [(18, "it is about the moon".to_owned())]);
        let difference = Difference { line: 28, expected: Some("three".to_owned()), printed: Some("two".to_owned()) };
        assert_eq!(typed.differences, [("echo one; echo two".to_owned(), difference)]);
    }

    /// Proves which lines are taken for a log's.
    #[test]
    fn logs() {
        assert!(is_logged("2026-11-30T22:00:00.123456Z  INFO batch_layer: batch run"));
        assert!(!is_logged("2026-11-30T22:00:00.123456Z ERROR batch_layer: damaged"));
        assert!(!is_logged("2010-12-01T08:26:00Z  5401.2") && !is_logged(""));
    }
}
