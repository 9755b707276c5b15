//! The `dispatch` program: reads what it is asked to do, does it, and tells the exit code.
//!
//! **Invariants.** 0 is success, 1 a failure while at work, 2 a setting that is wrong; a wrong setting is one line on
//! standard error.
//! **Not here.** Everything else.

use std::io::{self, Write};
use std::process::ExitCode;

use uring_dispatch::command;
use uring_dispatch::config::{Environment, Invocation, Loaded, Loader, ReportForm, effective};
use uring_dispatch::edge;
use uring_dispatch::logging::{self, LogError};
use uring_dispatch::server;

const FAILURE: u8 = 1;
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match Invocation::parse(std::env::args_os(), &Environment::of_process()) {
        Ok(Invocation::Serve(loaded, loader)) => serve(*loaded, loader),
        Ok(Invocation::CheckConfig(loaded, form)) => check(&loaded, form),
        Ok(Invocation::Health(url)) => ExitCode::from(command::health::check(&url)),
        Ok(Invocation::Version) => print(concat!("dispatch v", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Invocation::Routes) => print(&edge::routes::text()),
        Ok(Invocation::Document) => print(&edge::openapi::document()),
        Ok(Invocation::Help(help)) => print(&help),
        Ok(Invocation::Listen(options)) => ExitCode::from(command::listen::run(&options)),
        Ok(Invocation::Tap(options)) => ExitCode::from(command::tap::run(&options)),
        Err(error) => fail(USAGE, &error),
    }
}

fn serve(loaded: Loaded, loader: Loader) -> ExitCode {
    let Loaded { config, warnings, .. } = &loaded;
    match logging::start(config.log_format, config.log_filter.as_deref()) {
        Ok(()) => {}
        Err(error @ LogError::Filter(_)) => return fail(USAGE, &error),
        Err(error) => return fail(FAILURE, &error),
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    match server::run(loaded, loader) {
        Ok(end) => ExitCode::from(end.exit_code()),
        Err(error) => {
            logging::flush(logging::FLUSH_TIME_MAX);
            fail(FAILURE, &error)
        }
    }
}

fn check(loaded: &Loaded, form: ReportForm) -> ExitCode {
    for warning in &loaded.warnings {
        // What is printed next says that the settings are good.
        let _ = writeln!(io::stderr(), "dispatch: {warning}");
    }
    print(&match form {
        ReportForm::Toml => effective::text(&loaded.settings),
        ReportForm::Json => effective::document(&loaded.settings),
    })
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILURE),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    // Where standard error is gone, too, the exit code still tells.
    let _ = writeln!(io::stderr(), "dispatch: {error}");
    ExitCode::from(code)
}
