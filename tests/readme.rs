//! The README's table of settings, and the configuration file that is shipped, are those that the command line makes.
//! `UPDATE_README=1` writes them.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use uring_dispatch::config::{settings_table, template};

const BEGIN: &str = "<!-- settings -->\n";
const END: &str = "<!-- /settings -->";

#[test]
fn the_readme_lists_every_setting_as_the_command_line_knows_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap_or_else(|| panic!("README.md has no line {BEGIN}"));
    let (written, after) = rest.split_once(END).unwrap_or_else(|| panic!("README.md has no line {END}"));
    let table = format!("\n{}\n", settings_table());
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    assert!(
        written == table,
        "README.md's settings are out of date. UPDATE_README=1 cargo test --test readme writes this there:\n{table}"
    );
}

#[test]
fn the_shipped_configuration_file_has_every_setting_as_the_command_line_knows_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/dispatch.toml");
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&path, template()).unwrap();
        return;
    }
    let is_current = std::fs::read_to_string(&path).is_ok_and(|written| written == template());
    assert!(is_current, "packaging/dispatch.toml is out of date: UPDATE_README=1 cargo test --test readme");
}
