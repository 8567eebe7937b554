//! What a command printed, compared with what its page says.

use std::collections::BTreeSet;
use std::fmt;

/// On a line of its own any number of lines, within a line any text.
pub const ANYTHING: &str = "…";

/// The first place where the two part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Line of the page; that of the last expected line where more was printed than expected.
    pub line: usize,
    /// What the page says; `None` where it says nothing more.
    pub expected: Option<String>,
    /// What was printed; `None` where nothing more was.
    pub printed: Option<String>,
}

/// Compares the `printed` lines with the numbered lines of the page. Blanks at the ends of lines do not count.
///
/// # Errors
/// The first line of the page that nothing printed is like.
pub fn compare(expected: &[(usize, String)], printed: &[&str]) -> Result<(), Difference> {
    // How many of the printed lines may be behind us.
    let mut behind = BTreeSet::from([0]);
    let mut last = expected.first().map_or(0, |(line, _)| *line);
    for (line, text) in expected {
        last = *line;
        let next: BTreeSet<usize> = match (text.trim() == ANYTHING, behind.first()) {
            (true, Some(first)) => (*first..=printed.len()).collect(),
            _ => behind.iter().filter(|at| printed.get(**at).is_some_and(|found| is_like(text, found))).map(|at| at + 1).collect(),
        };
        if next.is_empty() {
            let found = behind.first().and_then(|at| printed.get(*at));
            return Err(Difference { line: *line, expected: Some(text.clone()), printed: found.map(|found| (*found).to_owned()) });
        }
        behind = next;
    }
    match behind.last() {
        Some(at) if *at < printed.len() => Err(Difference { line: last, expected: None, printed: Some(printed[*at].to_owned()) }),
        _ => Ok(()),
    }
}

/// Whether `text` is what `pattern` says, in which `…` stands for any text.
fn is_like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.trim_end(), text.trim_end());
    let Some((first, rest)) = pattern.split_once(ANYTHING) else { return pattern == text };
    let (middle, last) = rest.rsplit_once(ANYTHING).unwrap_or(("", rest));
    let Some(mut left) = text.strip_prefix(first) else { return false };
    for piece in middle.split(ANYTHING) {
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    left.ends_with(last)
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_nothing = |text: &Option<String>| text.clone().unwrap_or_else(|| "(nothing more)".to_owned());
        write!(f, "  the page says  {}\n  there is       {}", or_nothing(&self.expected), or_nothing(&self.printed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(expected: &str, printed: &str) -> Result<(), Option<String>> {
        let expected: Vec<(usize, String)> = expected.lines().enumerate().map(|(at, line)| (at + 1, line.to_owned())).collect();
        compare(&expected, &printed.lines().collect::<Vec<_>>()).map_err(|difference| difference.expected)
    }

    /// Proves that equal texts are equal, that a missing, another and a further line are each found, and where.
    #[test]
    fn exact() {
        assert_eq!(compared("a\nb", "a\nb  "), Ok(()));
        assert_eq!(compared("", ""), Ok(()));
        assert_eq!(compared("a\nb", "a"), Err(Some("b".to_owned())));
        assert_eq!(compared("a\nb", "a\nc"), Err(Some("b".to_owned())));
        assert_eq!(compared("a", "a\nb"), Err(None));
        assert_eq!(compared("", "b"), Err(None));
    }

    /// Proves that a line of dots stands for any lines, none included, and that what follows it has to come.
    #[test]
    fn any_lines() {
        for printed in ["a\nz", "a\nb\nz", "a\nz\nz"] {
            assert_eq!(compared("a\n…\nz", printed), Ok(()), "{printed}");
        }
        assert_eq!(compared("a\n…\nz", "a\nb"), Err(Some("z".to_owned())));
        assert_eq!(compared("…", ""), Ok(()));
        assert_eq!(compared("…\nz", "z\ny"), Err(None));
    }

    /// Proves that dots within a line stand for any text, and hold to what stands around them.
    #[test]
    fn any_text() {
        for (pattern, text, is) in [
            ("v1  …  9f4f", "v1  3 seconds  9f4f", true),
            ("v1  …  9f4f", "v1  3 seconds  9f40", false),
            ("…", "", true),
            ("a…a", "a", false),
            ("a…b…c", "a b bc c", true),
            ("a…b…c", "a c b", false),
            ("x…", "y", false),
        ] {
            assert_eq!(is_like(pattern, text), is, "{pattern} {text}");
        }
    }
}
