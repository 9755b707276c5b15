//! The rules of the architecture that the compiler does not know: layers, what is unsafe by another name, and sizes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

/// Folders of `src` from the lowest layer up; a file may use its own and those before it.
const LAYERS: [&str; 4] = ["protocol", "policy", "shard", "edge"];
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// The folder below `src` that a file is in, or the file's name where it is in none.
fn area(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    inside.components().next().unwrap().as_os_str().to_str().unwrap().to_owned()
}

/// The text without comments and without its unit tests.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]").next().unwrap();
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_layer_uses_itself_and_the_layers_below_alone() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let Some(own) = LAYERS.iter().position(|layer| *layer == area(&path)) else { continue };
        let code = code(&text);
        let above = LAYERS[own + 1..]
            .iter()
            .copied()
            .chain(["server", "service", "takeover", "drain", "config", "command", "logging"]);
        faults.extend(
            above
                .filter(|other| code.contains(&format!("crate::{other}")))
                .map(|other| (path.clone(), other.to_owned())),
        );
    }
    assert!(faults.is_empty(), "uses of a layer above: {faults:#?}");
}

#[test]
fn protocol_and_policy_have_no_io_no_async_and_no_clock() {
    for (path, text) in sources().into_iter().filter(|(path, _)| ["protocol", "policy"].contains(&&*area(path))) {
        for word in ["async ", ".await", "tokio", "std::net::Tcp", "std::net::Udp", "std::fs", "Instant", "SystemTime"]
        {
            assert!(!code(&text).contains(word), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn only_the_ring_is_unsafe_by_its_own_or_by_another_name() {
    let words =
        ["unsafe", "io_uring::", "UnsubmittedOneshot", "RawFd", "AsRawFd", "FromRawFd", "libc::recv", "libc::send"];
    let mut inside = 0;
    for (path, text) in sources() {
        // `tokio_uring` holds the letters, but not the danger.
        let code = code(&text).replace("tokio_uring::", "").replace("unsafe_code", "");
        let uses = words.iter().filter(|word| code.contains(**word)).count();
        if path.to_str().unwrap().contains("src/shard/ring/") {
            inside += uses;
        } else {
            assert_eq!(uses, 0, "{} uses what only shard/ring may", path.display());
        }
    }
    assert!(inside > 0, "the ring was not found");
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            if code.starts_with("//") || code.starts_with("#!") || !code.contains("unsafe {") {
                continue;
            }
            let says = lines[at.saturating_sub(6)..at].iter().any(|line| line.contains("SAFETY:"));
            assert!(says, "{}:{} has no SAFETY reason", path.display(), at + 1);
        }
    }
}

#[test]
fn every_file_says_what_it_owns_and_stays_readable() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{} has no head", path.display());
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines", path.display());
    }
}

#[test]
fn every_source_of_the_page_is_served_and_stays_readable() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/edge/page");
    let joined = fs::read_to_string(folder.join("mod.rs")).unwrap();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() <= FILE_LINES_MAX, "{name} is too long");
        assert!(name == "mod.rs" || joined.contains(&format!("include_str!(\"{name}\")")), "{name} is not served");
        assert!(!name.ends_with(".js") || text.starts_with("// "), "{name} has no head");
    }
}

#[test]
fn every_function_fits_a_screen() {
    for (path, text) in sources() {
        let mut begun: Option<(usize, usize, String)> = None;
        for (at, line) in text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            match &begun {
                None if line.contains("fn ")
                    && line.trim_end().ends_with('{')
                    && !line.trim_start().starts_with("//") =>
                {
                    begun = Some((at, indent, line.trim().to_owned()));
                }
                Some((from, depth, name)) if indent == *depth && line.trim() == "}" => {
                    let length = at - from + 1;
                    assert!(length <= FUNCTION_LINES_MAX, "{}: {name} has {length} lines", path.display());
                    begun = None;
                }
                _ => {}
            }
        }
    }
}

#[test]
fn every_ban_says_why() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clippy.toml");
    let text = fs::read_to_string(path).unwrap();
    let table = toml::de::DeTable::parse(&text).unwrap();
    for (name, least) in [("disallowed-methods", 5), ("disallowed-types", 3)] {
        let bans = table.get_ref()[name].get_ref().as_array().unwrap();
        assert!(bans.len() >= least, "{name}: {}", bans.len());
        for ban in bans {
            // A ban may be no more than a path, and then has no reason.
            let ban = ban.get_ref().as_table().unwrap_or_else(|| panic!("{name}: {ban:?} has no reason"));
            let reason = ban.get("reason").and_then(|reason| reason.get_ref().as_str()).unwrap_or_default();
            assert!(reason.split_whitespace().count() >= 3, "{name}: {ban:?} has no reason");
        }
    }
}
