//! The guides in docs/ say what the code says: every message, refusal, ending and count is in them, and what they name
//! is there.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use uring_dispatch::config::settings;
use uring_dispatch::policy::counts::Count;

/// How paths of sources begin whose sentences are no messages: help, documents, files, the page, request heads, and what
/// `listen` and `tap` print of devices.
const OTHER_SENTENCES: [&str; 12] = [
    "command/listen/show.rs",
    "command/tap/capture.rs",
    "command/tap/show.rs",
    "config/arguments.rs",
    "config/effective.rs",
    "config/settings.rs",
    "config/template.rs",
    "edge/openapi/",
    "edge/page/",
    "edge/routes.rs",
    "protocol/http.rs",
    "shard/ring/mod.rs",
];
/// Sentences that are no messages: the version, a content type, reasons of lints, what a debug build checks, and how an
/// encrypted key begins.
const NO_MESSAGES: [&str; 10] = [
    "dispatch v",
    "text/plain; version=0.0.4; charset=utf-8",
    "no shard runs in this program",
    "nothing runs on this thread yet",
    "this thread serves nobody else",
    "main may wait for something that does not come",
    "a datagram larger than UDP carries",
    "ENCRYPTED PRIVATE KEY",
    "Proc-Type: 4,ENCRYPTED",
    "taken as a device connects and ends, not in the data path",
];
const GUIDES: [&str; 8] =
    ["configuration", "operating", "service", "packages", "tls", "tuning", "troubleshooting", "drivers"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A guide with its lines joined, as a message may be broken over two.
fn guide(name: &str) -> String {
    read(&format!("docs/{name}.md")).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Every source below `src`, by its path there.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let (src, mut found) = (root().join("src"), Vec::new());
    walk(&src, &mut found);
    let named = |path: PathBuf| {
        (path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap())
    };
    found.into_iter().map(named).collect()
}

/// The code of a source without comments and unit tests.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]").next().unwrap();
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The text of every string literal, with its escapes carried out. There are no raw ones.
fn literals(code: &str) -> Vec<String> {
    let (mut literals, mut rest) = (Vec::new(), code);
    while let Some(start) = rest.find('"') {
        if rest[..start].ends_with('\'') && rest[start..].starts_with("\"'") {
            rest = &rest[start + 2..];
            continue;
        }
        let (mut literal, mut chars) = (String::new(), rest[start + 1..].char_indices().peekable());
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => match chars.next().unwrap().1 {
                    '\n' => while chars.next_if(|(_, next)| next.is_whitespace()).is_some() {},
                    'n' | 'r' => literal.push('\n'),
                    escaped => literal.push(escaped),
                },
                (_, char) => literal.push(char),
            }
        };
        literals.push(literal);
        rest = &rest[start + 1 + end + 1..];
    }
    literals
}

/// What stands around the placeholders of a format.
fn fragments(format: &str) -> Vec<String> {
    let mut fragments = vec![String::new()];
    let mut depth = 0;
    for char in format.chars() {
        match char {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                fragments.push(String::new());
            }
            _ if depth == 0 => fragments.last_mut().unwrap().push(char),
            _ => {}
        }
    }
    fragments.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// Whether a literal is a sentence or a part of one: it holds two words in a row, and no lines.
fn is_sentence(literal: &str) -> bool {
    let words = |part: &String| part.split(' ').filter(|word| word.chars().any(char::is_alphabetic)).count();
    !literal.contains('\n') && fragments(literal).iter().map(words).any(|words| words >= 2)
}

/// Whether the parts of a format stand in a text one after the other, close together.
fn is_said(text: &str, format: &str) -> bool {
    const PLACEHOLDER_BYTES_MAX: usize = 40;
    let parts = fragments(format);
    let (first, others) = parts.split_first().unwrap();
    text.match_indices(first.as_str()).any(|(at, _)| {
        let mut at = at + first.len();
        others.iter().all(|part| match text[at..].find(part.as_str()) {
            Some(after) if after <= PLACEHOLDER_BYTES_MAX => {
                at += after + part.len();
                true
            }
            _ => false,
        })
    })
}

#[test]
fn every_message_of_the_program_is_explained() {
    let guides = ["troubleshooting", "operating", "service"].map(guide).join(" ");
    let metrics = read("observe/metrics.md");
    let mut missing = Vec::new();
    let mut found = 0;
    let is_other =
        |path: &str| path.ends_with("/tests.rs") || OTHER_SENTENCES.iter().any(|other| path.starts_with(other));
    for (path, text) in sources().into_iter().filter(|(path, _)| !is_other(path)) {
        // The help of metrics is in a list of its own.
        let place = if path.starts_with("policy/metrics/") { &metrics } else { &guides };
        for literal in literals(&code(&text)).into_iter().filter(|literal| is_sentence(literal)) {
            found += 1;
            if !NO_MESSAGES.contains(&literal.as_str()) && !is_said(place, &literal) {
                missing.push(format!("{path}: {literal}"));
            }
        }
    }
    assert!(found > 100, "only {found} messages were found");
    assert!(
        missing.is_empty(),
        "in none of docs/troubleshooting.md, docs/operating.md and docs/service.md: {missing:#?}"
    );
}

#[test]
fn every_start_error_and_refusal_is_under_troubleshooting() {
    let troubleshooting = guide("troubleshooting");
    for path in [
        "config/error.rs",
        "server.rs",
        "service/handed.rs",
        "takeover/mod.rs",
        "logging.rs",
        "edge/api.rs",
        "edge/join.rs",
        "edge/lists.rs",
        "edge/reports.rs",
        "edge/tap.rs",
        "policy/ending.rs",
        "policy/listing/query.rs",
        "protocol/message.rs",
    ] {
        let code = code(&read(&format!("src/{path}")));
        // Of logs and threads is what stands behind the errors of `server` and `logging`.
        let code = if path == "server.rs" { code.split("enum Event").next().unwrap() } else { &code };
        let told = literals(code).into_iter().filter(|literal| is_sentence(literal));
        for literal in told {
            assert!(is_said(&troubleshooting, &literal), "{path}: {literal}");
        }
    }
}

#[test]
fn every_ending_and_every_code_is_under_troubleshooting() {
    let troubleshooting = guide("troubleshooting");
    let code = code(&read("src/policy/ending.rs"));
    for name in
        literals(&code).iter().filter(|literal| literal.chars().all(|char| char.is_ascii_lowercase() || char == '_'))
    {
        // Those of ports are no faults.
        let place = if name == "left" { guide("operating") } else { troubleshooting.clone() };
        assert!(place.contains(&format!("`{name}`")), "the ending {name}");
    }
    let endings = codes_of_endings(&["status(", "close_code(", "exit_code("]);
    assert!(["409", "1013", "130"].iter().all(|number| endings.contains(*number)), "{endings:?}");
    for number in endings {
        assert!(troubleshooting.contains(&format!("| {number}")), "the code {number}");
    }
    let statuses = statuses_of_the_api();
    assert!(["401", "409", "422"].iter().all(|status| statuses.contains(*status)), "{statuses:?}");
    for status in statuses {
        assert!(troubleshooting.contains(&format!("| {status} |")), "the status {status}");
    }
}

fn is_code(number: &&str) -> bool {
    matches!(number.len(), 2..=4) && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// The numbers in these functions of endings, which choose them.
fn codes_of_endings(choosing: &[&str]) -> BTreeSet<String> {
    let code = code(&read("src/policy/ending.rs"));
    let functions = code.split("fn ").filter(|function| choosing.iter().any(|name| function.starts_with(name)));
    let numbers = |function: &str| -> Vec<String> {
        function.split(|char: char| !char.is_ascii_alphanumeric()).filter(is_code).map(str::to_owned).collect()
    };
    functions.flat_map(numbers).collect()
}

/// The statuses with which the API answers by itself, but 200.
fn statuses_of_the_api() -> BTreeSet<String> {
    let api = ["api", "join", "lists", "reports"].map(|name| code(&read(&format!("src/edge/{name}.rs")))).join("\n");
    let answers = api.match_indices("error(").chain(api.match_indices("Answer::json("));
    let statuses = answers.filter_map(|(at, call)| api.get(at + call.len()..)?.get(..3)).filter(is_code);
    statuses.filter(|status| *status != "200").map(str::to_owned).collect()
}

/// The codes that begin the rows of a table of the README.
fn codes_of_readme(head: &str) -> BTreeSet<String> {
    let readme = read("README.md");
    let (_, table) = readme.split_once(&format!("\n| {head} | meaning |\n|---|---|\n")).unwrap();
    let cells = table.lines().map_while(|row| row.strip_prefix("| ")?.split(" |").next());
    cells.flat_map(|cell| cell.split(", ")).map(str::to_owned).collect()
}

#[test]
fn the_readme_has_every_status_and_every_close_code_and_no_other() {
    let mut statuses = codes_of_endings(&["status("]);
    statuses.extend(statuses_of_the_api());
    assert_eq!(codes_of_readme("status"), statuses);
    assert_eq!(codes_of_readme("close code"), codes_of_endings(&["close_code("]));
}

#[test]
fn every_count_and_every_field_of_a_shard_is_under_operating() {
    let operating = guide("operating");
    for name in Count::NAMES {
        assert!(operating.contains(&format!("`{name}`")), "the count {name}");
    }
    let reports = code(&read("src/edge/reports.rs"));
    let shard = reports.split("fn shard_json").nth(1).unwrap().split('}').next().unwrap();
    for field in literals(shard) {
        assert!(operating.contains(&format!("`{field}`")), "the field {field}");
    }
}

#[test]
fn every_alert_is_under_operating() {
    let (operating, rules) = (guide("operating"), read("observe/alerts.yml"));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(operating.contains(&format!("`{alert}`")), "the alert {alert}");
    }
}

#[test]
fn every_limit_is_among_those_that_are_explained() {
    let operating = guide("operating");
    for setting in settings().into_iter().filter(|setting| setting.flag.as_ref().is_some_and(|f| f.contains("-max "))) {
        let flag = setting.flag.unwrap();
        let flag = flag.split(' ').next().unwrap();
        assert!(operating.contains(&format!("`{flag}`")), "what happens at {flag}");
    }
}

#[test]
fn a_setting_that_is_named_exists() {
    /// Flags of other programs, of `listen`, `tap` and the health check, and of `scripts/bare-metal`.
    const OTHERS: [&str; 25] = [
        "--device",
        "--driver",
        "--pcap",
        "--help",
        "--url",
        "--ca",
        "--cert",
        "--key",
        "--json",
        "--experimental-websocket",
        "--apply",
        "--print-sysctl",
        "--ulimit",
        "--now",
        "--network",
        "--security-opt",
        "--cap-drop",
        "--read-only",
        "--stop-timeout",
        "--from-file",
        "--path",
        "--locked",
        "--example",
        "--build-arg",
        "--format",
    ];
    let known: Vec<String> = settings().into_iter().filter_map(|setting| setting.flag).collect();
    for name in GUIDES {
        let text = guide(name);
        for (at, _) in text.match_indices("--") {
            let flag: String = text[at..].chars().take_while(|char| *char == '-' || char.is_alphanumeric()).collect();
            let is_flag = text[at + 2..].starts_with(char::is_alphabetic);
            let exists = known.iter().any(|known| known.split([' ', ',']).any(|word| word == flag));
            assert!(!is_flag || exists || OTHERS.contains(&flag.as_str()), "docs/{name}.md: {flag}");
        }
    }
}

/// How GitHub makes an anchor of a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|char| char.is_alphanumeric() || matches!(char, ' ' | '-' | '_'));
    kept.map(|char| if char == ' ' { '-' } else { char }).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let pages = GUIDES.map(|name| format!("docs/{name}.md"));
    let mut links = 0;
    for page in pages.iter().map(String::as_str).chain(["README.md"]) {
        let text = read(page).split_whitespace().collect::<Vec<_>>().join(" ");
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            links += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(page).parent().unwrap();
            let target = if file.is_empty() { PathBuf::from(page) } else { folder.join(file) };
            assert!(root().join(&target).exists(), "{page}: {link}");
            if !heading.is_empty() {
                let target = read(target.to_str().unwrap());
                let mut headings = target.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(headings.any(|anchor| anchor == heading), "{page}: {link}");
            }
        }
    }
    assert!(links > 30, "only {links} links were found");
}

#[test]
fn messages_are_found_where_code_has_them() {
    let code = r##"f("one \"two\"", '"', "three \
        four"); "{a} five {b:?} six seven""##;
    let literals = literals(code);
    assert_eq!(literals, ["one \"two\"", "three four", "{a} five {b:?} six seven"]);
    assert!(literals.iter().all(|literal| is_sentence(literal)));
    assert!(!is_sentence("{name}: {}") && !is_sentence("shard-{shard}") && !is_sentence("a\nb c"));
    assert!(is_said("x NAME five N six seven", &literals[2]) && !is_said("five, seven", &literals[2]));
}
