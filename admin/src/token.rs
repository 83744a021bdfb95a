//! Tokens, and what each of them opens.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use utoipa::ToSchema;

/// What a token may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Scope {
    /// Scrape the metrics.
    Metrics = 1,
    /// Look at everything, metrics included.
    Read = 2,
    /// Hand out time-limited credentials.
    Credentials = 4,
    /// Change things; includes all other scopes.
    Admin = 8,
}

impl Scope {
    /// Every scope, the least powerful first.
    pub const ALL: [Scope; 4] = [Scope::Metrics, Scope::Read, Scope::Credentials, Scope::Admin];

    /// The name in token files, errors and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Scope::Metrics => "metrics",
            Scope::Read => "read",
            Scope::Credentials => "credentials",
            Scope::Admin => "admin",
        }
    }
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or(())
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Whether something is open to them: `admin` opens everything, `read` the metrics too.
    pub fn allow(self, wanted: Scope) -> bool {
        let implied = match wanted {
            Scope::Metrics => Scope::Metrics as u8 | Scope::Read as u8,
            other => other as u8,
        };
        self.0 & (implied | Scope::Admin as u8) != 0
    }

    /// Every scope that is open to them.
    pub fn opened(self) -> Vec<Scope> {
        Scope::ALL.into_iter().filter(|&scope| self.allow(scope)).collect()
    }
}

impl Scopes {
    /// The names of those that were given, with commas between.
    pub(crate) fn names(self) -> String {
        let given = Scope::ALL.into_iter().filter(|&scope| self.0 & scope as u8 != 0);
        given.map(Scope::name).collect::<Vec<_>>().join(",")
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | scope as u8))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Scope::ALL.iter().filter(|&&scope| self.0 & scope as u8 != 0)).finish()
    }
}

/// All tokens: only their hashes.
///
/// A plain hash is enough: tokens are long and random, not words that somebody remembers.
#[derive(Clone, Default)]
pub struct Tokens(Vec<([u8; 32], Scopes)>);

impl Tokens {
    /// Adds a token. One that is added twice has the scopes of both.
    pub fn add(&mut self, token: &str, scopes: impl IntoIterator<Item = Scope>) {
        self.0.push((hash(token), scopes.into_iter().collect()));
    }

    /// Whether there is none: then nobody may ask anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a token opens; nothing, if it is none of ours. Takes the same time whatever it is.
    pub(crate) fn scopes_of(&self, presented: &str) -> Option<Scopes> {
        self.find(presented).map(|id| id.scopes)
    }

    /// [`Self::scopes_of`], with the name that the log has for the token.
    pub(crate) fn find(&self, presented: &str) -> Option<TokenId> {
        let presented = hash(presented);
        let mut found = Choice::from(0);
        let mut scopes = 0;
        for (ours, of_ours) in &self.0 {
            let same = ours.ct_eq(&presented);
            scopes |= u8::conditional_select(&0, &of_ours.0, same);
            found |= same;
        }
        let [first, second, third, fourth, ..] = presented;
        let name = [first, second, third, fourth];
        bool::from(found).then_some(TokenId { name, scopes: Scopes(scopes) })
    }
}

/// A token of ours, without its text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenId {
    name: [u8; 4],
    scopes: Scopes,
}

impl TokenId {
    /// Eight hexadecimal digits, the first of its SHA-256: `printf %s TOKEN | sha256sum` begins with them, and
    /// nobody gets from them to a token that is long and random.
    pub(crate) fn name(self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.name))
    }

    /// What its bearer may do.
    pub(crate) fn scopes(self) -> Scopes {
        self.scopes
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_its_scopes_and_no_others() {
        let mut tokens = Tokens::default();
        tokens.add("scraper", [Scope::Metrics]);
        tokens.add("viewer", [Scope::Read]);
        tokens.add("root", [Scope::Admin]);
        let allowed = |token: &str, scope| tokens.scopes_of(token).is_some_and(|scopes| scopes.allow(scope));
        assert!(allowed("scraper", Scope::Metrics) && !allowed("scraper", Scope::Read));
        assert!(allowed("viewer", Scope::Read) && allowed("viewer", Scope::Metrics));
        assert!(!allowed("viewer", Scope::Credentials) && !allowed("viewer", Scope::Admin));
        assert!(Scope::ALL.into_iter().all(|scope| allowed("root", scope)));
        assert!(tokens.scopes_of("roo").is_none() && tokens.scopes_of("").is_none());
    }

    #[test]
    fn a_token_that_is_there_twice_has_the_scopes_of_both() {
        let mut tokens = Tokens::default();
        tokens.add("t", [Scope::Metrics]);
        tokens.add("t", [Scope::Credentials]);
        let scopes = tokens.scopes_of("t").expect("it is there");
        assert!(
            scopes.allow(Scope::Metrics) && scopes.allow(Scope::Credentials) && !scopes.allow(Scope::Admin)
        );
    }
}
