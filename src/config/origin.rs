//! Where the value of a setting was found.
//!
//! **Invariants.** None carries a value.
//! **Not here.** Which place goes before which (`places`).

use std::fmt;
use std::path::PathBuf;

/// Where a value was found, the place that goes before all others first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag,
    /// An environment variable.
    Variable,
    /// A file under `SECRETS_PATH`.
    File(PathBuf),
    /// The configuration file.
    Config(Position),
    /// Nowhere: it is the default.
    Default,
}

/// A place in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl Position {
    /// Where the byte `offset` of the file's text stands.
    pub(super) fn of(path: PathBuf, text: &str, offset: usize) -> Position {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Position { path, line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag => formatter.write_str("the command line"),
            Origin::Variable => formatter.write_str("the environment"),
            Origin::File(path) => write!(formatter, "the file {}", path.display()),
            Origin::Config(position) => write!(formatter, "{position}"),
            Origin::Default => formatter.write_str("the defaults"),
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, line {}, column {}", self.path.display(), self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_begin_at_one_and_columns_are_characters() {
        let text = "a = 1\nä = \"ö\" # x\n";
        let at = |offset| {
            let position = Position::of(PathBuf::new(), text, offset);
            (position.line, position.column)
        };
        assert_eq!((at(0), at(4), at(6), at(11), at(500)), ((1, 1), (1, 5), (2, 1), (2, 5), (3, 1)));
    }
}
