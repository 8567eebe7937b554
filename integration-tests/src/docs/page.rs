//! A page of the documentation: its `console` blocks, and what it says in comments about their being typed.
//!
//! | comment, on a line of its own | means |
//! |---|---|
//! | `<!-- test-docs: page -->` | this page is typed, from its first block to its last |
//! | `<!-- test-docs: not typed, REASON -->` | no block of this page is |
//! | `<!-- test-docs: needs PATH -->` | not where that is absent |
//! | `<!-- test-docs: PyPI for NAME… -->` | commands that begin with one of the names need Python and its packages |
//! | `<!-- test-docs: terminal NAME -->` | the next block is typed in another terminal, and its last command goes on running |
//! | `<!-- test-docs: not run, REASON -->` | the next block is not typed |
//!
//! In a block `$ ` begins a command, `> ` goes on with it, `^C` is the key, and all else is what is printed. A block of another
//! terminal that begins with printed lines is what the command that runs there prints next.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

const OPENS: &str = "<!-- test-docs: ";
const CLOSES: &str = " -->";
/// Languages of blocks in which a command could hide from being typed.
const UNTYPED: [&str; 4] = ["", "sh", "bash", "shell"];

/// A page. Lines are counted from one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Where it lies in the repository.
    pub path: PathBuf,
    /// Whether it is to be typed.
    pub is_typed: bool,
    /// Why it is not to be typed, if it says so.
    pub not_typed: Option<String>,
    /// What has to be there.
    pub needs: Vec<PathBuf>,
    /// Commands that need Python and its packages, by their first word.
    pub needs_pypi: BTreeSet<String>,
    /// In their order.
    pub blocks: Vec<Block>,
}

/// A `console` block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Where it begins.
    pub line: usize,
    /// Where it is typed, if not in the first terminal.
    pub terminal: Option<String>,
    /// Why it is not typed, if it is not.
    pub not_run: Option<String>,
    /// In their order.
    pub steps: Vec<Step>,
}

/// Something that is done, and what is printed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it stands.
    pub line: usize,
    /// What is done.
    pub act: Act,
    /// What is printed, with the numbers of the lines.
    pub expected: Vec<(usize, String)>,
}

/// What a reader does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Types a command.
    Type(String),
    /// Presses Ctrl-C.
    Interrupt,
    /// Looks on.
    Look,
}

impl Page {
    /// Reads the page at `path` of the repository at `root`.
    ///
    /// # Errors
    /// Comments and blocks that cannot be understood, with their lines.
    pub fn read(root: &Path, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(root.join(path)).with_context(|| path.display().to_string())?;
        Self::parse(path, &text)
    }

    /// As [`Page::read`], from a text.
    ///
    /// # Errors
    /// As [`Page::read`].
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let mut page = Self { path: path.to_owned(), ..Self::default() };
        let mut next = Block::default();
        let mut lines = (1..).zip(text.lines());
        while let Some((number, line)) = lines.next() {
            let at = || format!("{}:{number}", path.display());
            if let Some(comment) = line.strip_prefix(OPENS) {
                let comment = comment.strip_suffix(CLOSES).with_context(at)?;
                page.take(comment, &mut next).with_context(at)?;
            } else if let Some(language) = line.strip_prefix("```") {
                // (A block within a comment of HTML is typed too, and shown to nobody.)
                let inside: Vec<(usize, &str)> = lines.by_ref().take_while(|(_, line)| *line != "```").collect();
                if language == "console" {
                    let block = Block { line: number, ..std::mem::take(&mut next) };
                    page.blocks.push(Block { steps: steps(&inside).with_context(at)?, ..block });
                } else if page.is_typed && UNTYPED.contains(&language) {
                    bail!("{}: a block without a language; commands stand in ```console blocks, other text in ```text", at());
                }
            }
        }
        let path = path.display();
        ensure!(next == Block::default(), "{path}: the last comment is about no block");
        ensure!(page.is_typed || page.needs.is_empty(), "{path}: says what it needs, and not that it is to be typed");
        Ok(page)
    }

    fn take(&mut self, comment: &str, next: &mut Block) -> Result<()> {
        if comment == "page" {
            self.is_typed = true;
        } else if let Some(path) = comment.strip_prefix("needs ") {
            self.needs.push(path.into());
        } else if let Some(names) = comment.strip_prefix("PyPI for ") {
            self.needs_pypi.extend(names.split(' ').map(str::to_owned));
        } else if let Some(name) = comment.strip_prefix("terminal ") {
            next.terminal = Some(name.to_owned());
        } else if let Some(reason) = comment.strip_prefix("not typed, ") {
            self.not_typed = Some(reason.to_owned());
        } else if let Some(reason) = comment.strip_prefix("not run, ") {
            next.not_run = Some(reason.to_owned());
        } else {
            bail!("test-docs knows no \"{comment}\"; it knows page, not typed, needs, PyPI for, terminal, not run");
        }
        Ok(())
    }
}

fn steps(lines: &[(usize, &str)]) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (line, text) in lines.iter().copied() {
        let act = match text.strip_prefix("$ ") {
            Some(command) => Some(Act::Type(command.to_owned())),
            None if text == "^C" => Some(Act::Interrupt),
            None => None,
        };
        match (act, steps.last_mut()) {
            (Some(act), _) => steps.push(Step { line, act, expected: Vec::new() }),
            (None, None) => steps.push(Step { line, act: Act::Look, expected: vec![(line, text.to_owned())] }),
            (None, Some(step)) => match (&mut step.act, text.strip_prefix("> ").or((text == ">").then_some(""))) {
                (Act::Type(command), Some(more)) if step.expected.is_empty() => {
                    command.push('\n');
                    command.push_str(more);
                }
                _ => step.expected.push((line, text.to_owned())),
            },
        }
    }
    ensure!(!steps.is_empty(), "an empty console block");
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Page> {
        Page::parse(Path::new("a.md"), text)
    }

    /// Proves that commands, what goes on with them, keys and what is printed are told apart, with their lines.
    #[test]
    fn a_block() {
        let text = "<!-- test-docs: page -->\n<!-- test-docs: needs ../x -->\n\n```console\n$ cat <<A\n> one\n>\n> A\none\n\n$ true\n> printed\n^C\n```\n";
        let page = parse(text).unwrap();
        assert!(page.is_typed);
        assert_eq!(page.needs, [PathBuf::from("../x")]);
        let [block] = &page.blocks[..] else { panic!("{:?}", page.blocks) };
        let [cat, yes, stop] = &block.steps[..] else { panic!("{:?}", block.steps) };
        assert_eq!((block.line, cat.line), (4, 5));
        assert_eq!(cat.act, Act::Type("cat <<A\none\n\nA".to_owned()));
        assert_eq!(cat.expected, [(9, "one".to_owned()), (10, String::new())]);
        assert_eq!(yes.act, Act::Type("true\nprinted".to_owned()));
        assert_eq!(stop.act, Act::Interrupt);
    }

    /// Proves that a comment is about the next block alone.
    #[test]
    fn comments() {
        let block = "```console\n$ x\n```\n";
        let text = format!("<!-- test-docs: not run, no -->\n{block}<!-- test-docs: terminal t -->\n{block}{block}");
        let page = parse(&text).unwrap();
        let said: Vec<_> = page.blocks.iter().map(|block| (block.not_run.as_deref(), block.terminal.as_deref())).collect();
        assert_eq!(said, [(Some("no"), None), (None, Some("t")), (None, None)]);
        assert!(!page.is_typed);
    }

    /// Proves that what could keep a command from being typed by mistake is refused.
    #[test]
    fn refused() {
        for text in [
            "<!-- test-docs: pages -->",
            "<!-- test-docs: page",
            "<!-- test-docs: not run, no -->",
            "<!-- test-docs: page -->\n```\nmake\n```",
            "```console\n```",
            "<!-- test-docs: needs x -->",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
