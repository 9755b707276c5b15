//! The shared secret that drivers and operators present, and the one that is to take its place.
//!
//! **Invariants.** Compared with both, in time that depends on lengths alone; never printed, not even by `Debug`. Each
//! has a budget of sessions, which all shards share.
//! **Not here.** Where the secret comes from (`config`), where a request carries it (`edge::api`).

use crate::policy::budget::Budget;
use std::fmt;
use subtle::{Choice, ConstantTimeEq};

/// One secret or two; a request whose token equals either is let in.
#[derive(Clone)]
pub struct Token {
    secret: Secret,
    next: Option<Secret>,
}

#[derive(Clone)]
struct Secret {
    bytes: Box<[u8]>,
    sessions: Budget,
}

impl Token {
    /// Takes the secrets over as they are. Drivers that show the same one may have `sessions_max` sessions together.
    pub fn new(secret: String, next: Option<String>, sessions_max: usize) -> Self {
        let secret_of = |text: String| Secret { bytes: text.into_bytes().into(), sessions: Budget::new(sessions_max) };
        Token { secret: secret_of(secret), next: next.map(secret_of) }
    }

    /// The same that takes the place of `before`: a secret that was one there keeps its sessions.
    #[must_use]
    pub fn after(mut self, before: &Token, sessions_max: usize) -> Self {
        for secret in std::iter::once(&mut self.secret).chain(&mut self.next) {
            let known = std::iter::once(&before.secret).chain(&before.next);
            if let Some(known) = known.into_iter().find(|known| known.bytes.ct_eq(&secret.bytes).into()) {
                secret.sessions = known.sessions.clone();
                secret.sessions.set_limit(sessions_max);
            }
        }
        self
    }

    /// The sessions of the secret that `presented` is; `None` where it is none.
    pub fn sessions_of(&self, presented: &str) -> Option<&Budget> {
        let is_secret = self.secret.bytes.ct_eq(presented.as_bytes());
        let next = self.next.as_ref();
        let is_next = next.map_or(Choice::from(0), |next| next.bytes.ct_eq(presented.as_bytes()));
        if !bool::from(is_secret | is_next) {
            return None;
        }
        Some(next.filter(|_| is_next.into()).map_or(&self.secret.sessions, |next| &next.sessions))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(masked)")
    }
}

/// The token that a request presents: the `Authorization` header where there is one, even an empty one, else the query
/// parameter. The word Bearer may stand before it in any case; blanks around it do not count.
pub fn presented<'a>(authorization: Option<&'a str>, parameter: Option<&'a str>) -> &'a str {
    const SCHEME: &str = "bearer";
    let Some(header) = authorization.map(str::trim) else {
        return parameter.unwrap_or_default().trim();
    };
    match header.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) && rest.starts_with([' ', '\t']) => rest.trim(),
        Some((scheme, "")) if scheme.eq_ignore_ascii_case(SCHEME) => "",
        _ => header,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_wins_over_the_parameter_even_when_empty() {
        assert_eq!(presented(Some("Bearer a"), Some("b")), "a");
        assert_eq!(presented(Some(""), Some("b")), "");
        assert_eq!(presented(None, Some(" b ")), "b");
        assert_eq!(presented(None, None), "");
    }

    #[test]
    fn the_scheme_may_be_missing_and_its_case_does_not_count() {
        for header in ["token", "Bearer token", "bearer  token ", "BEARER\ttoken"] {
            assert_eq!(presented(Some(header), None), "token");
        }
        assert_eq!(presented(Some("Bearertoken"), None), "Bearertoken");
        assert_eq!(presented(Some("Bearer"), None), "");
    }

    #[test]
    fn the_token_counts_its_case_and_is_never_printed() {
        let token = Token::new("Secret".into(), None, 1);
        let matches = |presented| token.sessions_of(presented).is_some();
        assert!(matches("Secret") && !matches("secret") && !matches("") && !matches("Secret2"));
        assert_eq!(format!("{token:?}"), "Token(masked)");
    }

    #[test]
    fn either_of_two_secrets_is_let_in_and_no_third() {
        let token = Token::new("old".into(), Some("new".into()), 1);
        let matches = |presented| token.sessions_of(presented).is_some();
        assert!(matches("old") && matches("new"));
        assert!(!matches("") && !matches("oldnew") && !matches("Old") && !matches("mew"));
        assert_eq!(format!("{token:?}"), "Token(masked)");
    }

    #[test]
    fn a_secret_that_stays_keeps_its_sessions_also_in_the_other_place() {
        let before = Token::new("old".into(), Some("new".into()), 1);
        let session = |token: &Token, secret| token.sessions_of(secret).and_then(|sessions| sessions.reserve(1));
        let first = session(&before, "new");
        let after = Token::new("new".into(), Some("newer".into()), 2).after(&before, 2);
        let second = session(&after, "new");
        assert!(first.is_some() && second.is_some() && session(&after, "new").is_none());
        assert!(session(&after, "newer").is_some() && after.sessions_of("old").is_none());
        drop(first);
        assert!(session(&after, "new").is_some());
    }

    #[test]
    fn each_secret_has_sessions_of_its_own_which_clones_share() {
        let token = Token::new("old".into(), Some("new".into()), 1);
        let other = token.clone();
        let session = |token: &Token, secret| token.sessions_of(secret).and_then(|sessions| sessions.reserve(1));
        let old = session(&token, "old");
        assert!(old.is_some() && session(&other, "old").is_none() && session(&other, "new").is_some());
        drop(old);
        assert!(session(&other, "old").is_some());
    }
}
