"""What scripts prove: programs that they start, what they wait for, and how a proof fails.

Invariants: nothing waits longer than PATIENCE_S; the first failure ends the script.
"""

import subprocess
import sys
import threading
import time

PATIENCE_S = 30


def fail(text):
    sys.exit(f"FAILED: {text}")


def ok(what):
    print(f"ok  {what}", flush=True)


def eventually(what, probe, seen=lambda: ""):
    """The first value of `probe` that is true; where none comes, `seen` says what was there instead."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.05)
    fail(f"within {PATIENCE_S} s: {what}{seen()}")


class Process:
    """A program, its lines, and its end."""

    def __init__(self, command, **options):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )
        self.lines = []
        threading.Thread(target=self.follow, daemon=True).start()

    def follow(self):
        self.lines.extend(line for line in iter(self.process.stdout.readline, ""))

    def until(self, what, *texts):
        """The next line that holds all of these; it is taken."""

        def probe():
            line = next((line for line in self.lines if all(text in line for text in texts)), None)
            if line is None and self.process.poll() is not None:
                fail(f"{what}: ended with {self.process.returncode}\n{''.join(self.lines[-30:])}")
            return line

        line = eventually(what, probe, lambda: f"; last lines: {self.lines[-3:]}")
        self.lines.remove(line)
        return line

    def write(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self):
        self.process.terminate()
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            fail(f"{self.process.args[0]} does not end")
