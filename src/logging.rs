//! The log: one line an event on standard output, written by a thread of its own.
//!
//! **Invariants.** Logging never blocks a shard: at most [`LINES_MAX`] lines wait, more are dropped and counted.
//! Records of the `log` crate are not taken, as tungstenite prints payloads through it.
//! **Not here.** The thread and what waits for it (`lines`), what is logged at which level (whoever decides it), keeping
//! tokens out of events (`config::Secret`, `policy::token`).

mod lines;

use std::io::{self, IsTerminal};
use std::sync::OnceLock;
use std::time::Duration;

use self::lines::Lines;
use thiserror::Error;
use tokio::sync::watch;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Compact, DefaultFields, Format, Json, JsonFields};
use tracing_subscriber::fmt::{MakeWriter, SubscriberBuilder};
use tracing_subscriber::{EnvFilter, reload};

/// Lines that may wait for standard output. A line is some 200 bytes, so this is less than 2 MiB.
pub const LINES_MAX: usize = 8_192;
/// How long the end of the process waits for standard output to take what is left, at most.
pub const FLUSH_TIME_MAX: Duration = Duration::from_secs(1);

static LINES: OnceLock<Lines> = OnceLock::new();
static RELOAD: OnceLock<Reload> = OnceLock::new();

/// What changes the filter of the log that has started.
struct Reload {
    /// What an empty filter stands for. Off the data path, and locked for a moment.
    start: watch::Sender<String>,
    set: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
    get: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

/// How a line looks, and with it the level where no filter is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person, from debug on.
    Readable,
    /// One JSON object a line, from info on.
    Json,
}

impl LogFormat {
    /// The level where no filter is set.
    pub fn level(self) -> &'static str {
        match self {
            LogFormat::Readable => "debug",
            LogFormat::Json => "info",
        }
    }
}

/// Why logging does not start.
#[derive(Debug, Error)]
pub enum LogError {
    /// The filter is none; the configuration has checked it before.
    #[error("the log filter is not accepted: {0}")]
    Filter(String),
    /// The process logs already.
    #[error("logging was started twice")]
    Started,
    /// The thread that writes cannot be had.
    #[error("the thread that writes the log cannot be started: {0}")]
    Thread(io::Error),
}

/// Starts logging for the whole process, once. What waits when the process ends is lost, unless it was [`flush`]ed.
///
/// # Errors
/// [`LogError`]; nothing is logged then.
pub fn start(format: LogFormat, filter: Option<&str>) -> Result<(), LogError> {
    let start = filter.unwrap_or(format.level()).to_owned();
    let filter = parse_filter(&start).map_err(LogError::Filter)?;
    let lines = Lines::written_to(io::stdout(), LINES_MAX).map_err(LogError::Thread)?;
    let output = lines.clone();
    let output = move || output.clone();
    // Not `init`: that would take the records of the `log` crate, too.
    let (started, reload) = match format {
        LogFormat::Readable => {
            let output = readable(output, io::stdout().is_terminal()).with_env_filter(filter).with_filter_reloading();
            let reload = Reload::new(start, output.reload_handle());
            (tracing::subscriber::set_global_default(output.finish()), reload)
        }
        LogFormat::Json => {
            let output = json(output).with_env_filter(filter).with_filter_reloading();
            let reload = Reload::new(start, output.reload_handle());
            (tracing::subscriber::set_global_default(output.finish()), reload)
        }
    };
    started.map_err(|_| LogError::Started)?;
    // The subscriber is set once, so these are, too.
    let _ = LINES.set(lines);
    let _ = RELOAD.set(reload);
    Ok(())
}

/// Waits until what was logged so far is written, and no longer than this.
pub fn flush(time_max: Duration) {
    if let Some(lines) = LINES.get() {
        lines.flush(time_max);
    }
}

/// Lines that were dropped as standard output was too slow; 0 where nothing logs.
pub fn dropped_lines() -> usize {
    LINES.get().map_or(0, Lines::dropped)
}

/// The filter of the log, as it stands; empty where nothing logs.
pub fn filter() -> String {
    RELOAD.get().and_then(|reload| (reload.get)()).unwrap_or_default()
}

/// Sets the filter of the log until it is set again; an empty text is the filter of the settings. Takes the
/// subscriber's own lock for a moment, as a line does.
///
/// # Errors
/// Half a sentence for the operator, where the text is no filter.
pub fn set_filter(text: &str) -> Result<(), String> {
    let Some(reload) = RELOAD.get() else { return Err("nothing logs".to_owned()) };
    let filter = if text.trim().is_empty() { parse_filter(&reload.start.borrow()) } else { parse_filter(text) }?;
    if (reload.set)(filter) { Ok(()) } else { Err("nothing logs any more".to_owned()) }
}

/// Sets the filter of the settings, and the log to it.
///
/// # Errors
/// As [`set_filter`]; then nothing has changed.
pub fn set_start_filter(text: &str) -> Result<(), String> {
    set_filter(text)?;
    if let Some(reload) = RELOAD.get() {
        reload.start.send_replace(text.to_owned());
    }
    Ok(())
}

impl Reload {
    fn new<S: 'static>(start: String, handle: reload::Handle<EnvFilter, S>) -> Self {
        let reader = handle.clone();
        Reload {
            start: watch::Sender::new(start),
            set: Box::new(move |filter| handle.reload(filter).is_ok()),
            get: Box::new(move || reader.with_current(ToString::to_string).ok()),
        }
    }
}

/// Whether a text is a log filter, and if not, why.
///
/// # Errors
/// Half a sentence for the operator.
pub fn check_filter(text: &str) -> Result<(), String> {
    parse_filter(text).map(|_| ())
}

/// A filter of `tracing`, with the levels of the original besides.
///
/// In that syntax a bare word that is no level names a target and silences everything else. That is hardly what
/// `LOG_LEVEL=verbose` means, so such a word needs its `=level`.
fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    let mut directives = Vec::new();
    for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        let word = directive.to_ascii_lowercase();
        directives.push(match word.as_str() {
            "trace" | "debug" | "info" | "warn" | "error" | "off" => word,
            "notice" => "info".to_owned(),
            "warning" => "warn".to_owned(),
            "fatal" => "error".to_owned(),
            "none" => "off".to_owned(),
            _ if directive.contains(['=', '[', ']', '{', '}']) => directive.to_owned(),
            _ => {
                return Err(format!(
                    "{directive} is no level; for what one part of the program logs, write {directive}=debug"
                ));
            }
        });
    }
    EnvFilter::builder().parse(directives.join(",")).map_err(|error| error.to_string())
}

type ReadableLines<W> = SubscriberBuilder<DefaultFields, Format<Compact>, LevelFilter, W>;
type JsonLines<W> = SubscriberBuilder<JsonFields, Format<Json>, LevelFilter, W>;

fn readable<W>(output: W, colours: bool) -> ReadableLines<W>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    tracing_subscriber::fmt().with_writer(output).with_ansi(colours).compact()
}

fn json<W>(output: W) -> JsonLines<W>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    tracing_subscriber::fmt().with_writer(output).json().flatten_event(true)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::disallowed_types)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn logged(format: LogFormat) -> String {
        let lines = Lines::default();
        let output = lines.clone();
        let make = move || output.clone();
        let filter = EnvFilter::new(format.level());
        let events = || {
            tracing::info!(port = 6001, "port opened");
            tracing::debug!("device \u{1b}[31mopened");
        };
        match format {
            LogFormat::Readable => {
                tracing::subscriber::with_default(readable(make, false).with_env_filter(filter).finish(), events)
            }
            LogFormat::Json => tracing::subscriber::with_default(json(make).with_env_filter(filter).finish(), events),
        }
        lines.text()
    }

    #[test]
    fn production_logs_one_json_object_a_line_at_info() {
        let text = logged(LogFormat::Json);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&"INFO".into(), &"port opened".into()));
        assert_eq!(lines[0]["port"], 6001);
        assert!(lines[0]["timestamp"].is_string());
    }

    #[test]
    fn a_person_gets_lines_at_debug_without_control_characters() {
        let text = logged(LogFormat::Readable);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("port opened port=6001"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn a_filter_is_a_level_or_targets_with_levels() {
        for text in [
            "",
            "info",
            "DEBUG",
            "notice",
            "FATAL",
            "none",
            "warn,uring_dispatch::edge=trace",
            "[port{number=1}]=trace",
        ] {
            assert_eq!(check_filter(text), Ok(()), "{text}");
        }
        for text in ["verbose", "info,edge", "edge=loud", "[port=", "=info="] {
            assert!(check_filter(text).is_err(), "{text}");
        }
    }
}
