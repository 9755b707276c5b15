//! The shared secret that drivers and operators present, and the one that is to take its place.
//!
//! **Invariants.** Compared with both, in time that depends on lengths alone; never printed, not even by `Debug`.
//! **Not here.** Where the secret comes from (`config`), where a request carries it (`edge::api`).

use std::fmt;
use subtle::{Choice, ConstantTimeEq};

/// One secret or two; a request whose token equals either is let in.
#[derive(Clone)]
pub struct Token {
    secret: Box<[u8]>,
    next: Option<Box<[u8]>>,
}

impl Token {
    /// Takes the secrets over as they are.
    pub fn new(secret: String, next: Option<String>) -> Self {
        let bytes = |secret: String| secret.into_bytes().into_boxed_slice();
        Token { secret: bytes(secret), next: next.map(bytes) }
    }

    /// Whether `presented` is one of the secrets.
    pub fn matches(&self, presented: &str) -> bool {
        let is_secret = self.secret.ct_eq(presented.as_bytes());
        let is_next = self.next.as_ref().map_or(Choice::from(0), |next| next.ct_eq(presented.as_bytes()));
        (is_secret | is_next).into()
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
        let token = Token::new("Secret".into(), None);
        assert!(token.matches("Secret") && !token.matches("secret") && !token.matches("") && !token.matches("Secret2"));
        assert_eq!(format!("{token:?}"), "Token(masked)");
    }

    #[test]
    fn either_of_two_secrets_is_let_in_and_no_third() {
        let token = Token::new("old".into(), Some("new".into()));
        assert!(token.matches("old") && token.matches("new"));
        assert!(!token.matches("") && !token.matches("oldnew") && !token.matches("Old") && !token.matches("mew"));
        assert_eq!(format!("{token:?}"), "Token(masked)");
    }
}
