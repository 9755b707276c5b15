//! A program that a test runs beside the daemon under test: every wait on it is bounded, and it is killed with the value.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::process::{clear_environment, try_started};
use super::{PATIENCE, read};

/// A program while it runs.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: Printed,
    notes: Printed,
}

impl Program {
    /// Starts a program, of which all that it prints is read as it comes.
    pub fn start(command: &mut Command) -> Self {
        Self::try_start(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// The same, or why that failed.
    pub fn try_start(command: &mut Command) -> std::io::Result<Self> {
        let mut child = try_started(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let input = child.stdin.take();
        let output = Printed::new(child.stdout.take().unwrap());
        let notes = Printed::new(child.stderr.take().unwrap());
        Ok(Self { child, input, output, notes })
    }

    /// Starts the binary without the environment that would change what it does.
    pub fn binary(args: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start(&mut binary(args, variables))
    }

    /// Sends it text on its standard input.
    pub fn types(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// The next line of its standard output with its end; empty where there is none.
    pub fn printed(&mut self) -> String {
        self.output.line()
    }

    /// Reads lines of its standard output until one has this text.
    pub fn printed_until(&mut self, text: &str) {
        lines_until(&mut self.output, text);
    }

    /// What comes on its standard output until it ends.
    pub fn printed_in_all(&mut self) -> Vec<u8> {
        self.output.rest()
    }

    /// Reads lines of its standard error until one has this text, and returns them all.
    pub fn notes_until(&mut self, text: &str) -> String {
        lines_until(&mut self.notes, text)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// How it ends, which it does by itself.
    pub fn exits(&mut self) -> ExitStatus {
        exits(&mut self.child, "the program")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary(args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dispatch"));
    command.args(args);
    clear_environment(&mut command);
    command.envs(variables.iter().copied());
    command
}

fn lines_until(printed: &mut Printed, text: &str) -> String {
    let mut lines = String::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let line = printed.line();
        assert!(!line.is_empty() && Instant::now() < deadline, "no line has {text:?}: {lines}");
        lines += &line;
        if line.contains(text) {
            return lines;
        }
    }
}

/// How a program ends; fails unless it does so in time.
pub fn exits(child: &mut Child, what: &str) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "{what} does not end within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A program that was run to its end.
#[derive(Debug)]
pub struct Run {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Runs the binary without the environment that would change what it does; fails unless it ends in time.
    pub fn binary(args: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::of(&mut binary(args, variables)).unwrap()
    }

    /// Runs any program, or says why it cannot be started.
    pub fn of(command: &mut Command) -> std::io::Result<Self> {
        let mut program = Program::try_start(command)?;
        program.end_input();
        let status = exits(&mut program.child, &format!("{command:?}"));
        let [stdout, stderr] =
            [program.printed_in_all(), program.notes.rest()].map(|bytes| String::from_utf8(bytes).unwrap());
        Ok(Self { status, stdout, stderr })
    }
}

/// What a program prints on one of its streams. A thread reads it as it comes: a pipe holds 64 KiB, and a program that
/// writes more waits.
struct Printed {
    chunks: Receiver<Vec<u8>>,
    pending: Vec<u8>,
}

impl Printed {
    fn new(mut source: impl Read + Send + 'static) -> Self {
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(size @ 1..) = read(&mut source, &mut buffer) {
                // Read on where nobody looks: a pipe that is closed would end the program.
                let _ = sender.send(buffer[..size].to_vec());
            }
        });
        Self { chunks, pending: Vec::new() }
    }

    /// Takes more of it, unless that was all.
    fn fill(&mut self) -> bool {
        match self.chunks.recv_timeout(PATIENCE) {
            Ok(chunk) => self.pending.extend(chunk),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => {
                let pending = String::from_utf8_lossy(&self.pending);
                panic!("nothing is printed for {PATIENCE:?}; so far {pending:?}");
            }
        }
        true
    }

    /// The next line with its end, or what there is without one; empty at the end.
    fn line(&mut self) -> String {
        let mut looked_at = 0;
        let end = loop {
            if let Some(end) = self.pending[looked_at..].iter().position(|&byte| byte == b'\n') {
                break looked_at + end + 1;
            }
            looked_at = self.pending.len();
            if !self.fill() {
                break looked_at;
            }
        };
        String::from_utf8(self.pending.drain(..end).collect()).unwrap()
    }

    fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.pending)
    }
}
