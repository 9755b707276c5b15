//! Answers that refuse a request, as JSON.
//!
//! **Invariants.** Each says why in `error`.
//! **Not here.** When a request is refused (`api`, `join`).

use crate::policy::ending::JoinRefusal;
use crate::protocol::http::Answer;
use serde_json::json;

/// An answer with `text` as its reason.
pub fn error(status: u16, text: &str) -> Answer {
    Answer::json(status, json!({ "error": text }).to_string())
}

/// An answer that names a parameter and what it has to be.
pub fn parameter_error(status: u16, text: &str, parameter: &str, restriction: &str) -> Answer {
    let body = json!({ "error": text, "parameter": parameter, "restriction": restriction });
    Answer::json(status, body.to_string())
}

/// The answer to a join that is refused.
pub fn refused(refusal: JoinRefusal) -> Answer {
    error(refusal.status(), &refusal.reason())
}
