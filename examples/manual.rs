//! Writes the man pages of `dispatch` and its commands, and completions for bash, zsh and fish, into a folder: what
//! `scripts/package` ships beside the binary. `cargo run --example manual -- FOLDER`.
//!
//! **Invariants.** All is made of the command line itself, so it says what `--help` says; the same source makes the same
//! bytes, and no value of the environment is in them.
//! **Not here.** Compressing and placing them (`scripts/package`, `Cargo.toml`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clap_complete::Shell;
use uring_dispatch::config::command_line;

/// A completion's name, as each shell looks for it.
const COMPLETIONS: [(Shell, &str); 3] =
    [(Shell::Bash, "dispatch"), (Shell::Zsh, "_dispatch"), (Shell::Fish, "dispatch.fish")];

#[allow(dead_code, reason = "the test that compiles this in calls `write` alone")]
fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    write(&folder.ok_or_else(|| io::Error::other("usage: manual FOLDER"))?)
}

/// Writes `man` and `completions` below a folder, over what is there.
pub fn write(folder: &Path) -> io::Result<()> {
    let [pages, completions] = ["man", "completions"].map(|kind| folder.join(kind));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    // The version has a flag of its own here, so that clap's is not wanted.
    let command = command_line().version(env!("CARGO_PKG_VERSION")).disable_version_flag(true);
    clap_mangen::generate_to(command, &pages)?;
    for (shell, name) in COMPLETIONS {
        clap_complete::generate(shell, &mut command_line(), "dispatch", &mut File::create(completions.join(name))?);
    }
    Ok(())
}
