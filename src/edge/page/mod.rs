//! The status page: one document that holds its style and its script, and the lines that keep it to them.
//!
//! The sources beside this file are joined when the daemon is built: the scripts in the order of `SCRIPTS` are one
//! module, in which each uses what those before it declare.
//!
//! **Invariants.** The page holds no data and no token, so it is served to anyone; it asks for the token and reads the
//! API like any other program. Nothing outside the page is loaded, and nothing runs that is not in it: the policy
//! names the hashes of what is served.
//! **Not here.** What the page shows (`reports`, `lists`), and who may read that (`door`).

use crate::protocol::http::{Answer, RequestHead};
use data_encoding::{BASE64, HEXLOWER};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// What the page is.
pub const CONTENT_TYPE: &str = "text/html; charset=utf-8";
/// Where style and script go.
const STYLE_PLACE: &str = "/* style */";
const SCRIPT_PLACE: &str = "/* script */";
/// The frame of the page.
const DOCUMENT: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// The script, in parts.
const SCRIPTS: [&str; 13] = [
    include_str!("format.js"),
    include_str!("api.js"),
    include_str!("samples.js"),
    include_str!("filter.js"),
    include_str!("kinds.js"),
    include_str!("list.js"),
    include_str!("graphs.js"),
    include_str!("details.js"),
    include_str!("loop.js"),
    include_str!("show.js"),
    include_str!("controls.js"),
    include_str!("gate.js"),
    include_str!("page.js"),
];

/// The page as it is served.
struct Page {
    body: String,
    tag: String,
    lines: String,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let script = SCRIPTS.concat();
    let body = DOCUMENT.replace(STYLE_PLACE, STYLE).replace(SCRIPT_PLACE, &script);
    let tag = format!("\"{}\"", &HEXLOWER.encode(&Sha256::digest(&body))[..32]);
    let hash = |text: &str| BASE64.encode(&Sha256::digest(text));
    let lines = format!(
        "Content-Security-Policy: default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Opener-Policy: same-origin\r\n\
         Cache-Control: no-cache\r\nETag: {tag}\r\n",
        hash(&script),
        hash(STYLE),
    );
    Page { body, tag, lines }
});

/// The page, or that it is what the request has already.
pub fn answer(head: &RequestHead<'_>) -> Answer {
    let page: &'static Page = &PAGE;
    // A weak tag is as good here (RFC 9110 section 13.1.2).
    let known = [&page.tag, &format!("W/{}", page.tag), "*"];
    let is_known = known.iter().any(|tag| head.header_has("if-none-match", tag));
    let (status, body) = if is_known { (304, "") } else { (200, page.body.as_str()) };
    Answer { status, body: body.into(), content_type: CONTENT_TYPE, allow: None, lines: &page.lines }
}

#[cfg(test)]
mod tests {
    use crate::policy::counts::Count;

    #[test]
    fn every_refusal_that_is_counted_is_a_problem_of_the_page() {
        let problems = include_str!("samples.js");
        for name in Count::NAMES.iter().filter(|name| name.contains("refused")) {
            assert!(problems.contains(&format!("\n  {name}: \"")), "{name}");
        }
    }
}
