//! What a client may do.

use std::fmt;
use std::str::FromStr;

/// One kind of thing that a client may do. None contains another: whoever needs two is given two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Send events.
    Ingest,
    /// Ask for statistics.
    Query,
    /// Erase a user, and what the console changes.
    Admin,
    /// What the layers ask of one another.
    Internal,
}

/// In the order in which they are listed for people.
const ALL: [(Scope, &str); 4] =
    [(Scope::Ingest, "ingest"), (Scope::Query, "query"), (Scope::Admin, "admin"), (Scope::Internal, "internal")];

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Ingest, Self::Query, Self::Admin, Self::Internal];

    /// As files, tokens and messages have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        ALL[self as usize].1
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = ALL.iter().find(|(_, name)| *name == text);
        // What was written may be a token in the wrong place: it is not repeated.
        found.map(|(scope, _)| *scope).ok_or_else(|| "there is no such scope; write ingest, query, admin or internal".to_owned())
    }
}

/// Some scopes, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Scope::ALL.into_iter().collect()
    }

    /// Whether `scope` is among them.
    #[must_use]
    pub fn contain(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }

    /// Those that a token's `scope` names, words between spaces (RFC 8693, section 4.2). Words that mean something to others are left out.
    #[must_use]
    pub fn of_words(words: &str) -> Self {
        words.split(' ').filter_map(|word| word.parse::<Scope>().ok()).collect()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | 1 << scope as u8))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = Scope::ALL.into_iter().filter(|scope| self.contain(*scope)).map(Scope::as_str).collect();
        f.write_str(&names.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that each scope is itself alone, reads back from its name, and that other words of a token add none.
    #[test]
    fn none_contains_another() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse::<Scope>(), Ok(scope));
            let alone = Scopes::of_words(&format!("openid {scope} {scope}s ADMIN"));
            assert_eq!(Scope::ALL.map(|other| alone.contain(other)), Scope::ALL.map(|other| other == scope));
        }
        assert!(Scopes::of_words("openid").is_empty() && Scopes::default().is_empty());
        assert_eq!(Scopes::all().to_string(), "ingest query admin internal");
    }
}
