"""Runs a third-party program where the devices are."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import TracebackType
from typing import Self

from .network import Network
from .verdict import Failure, check

WAIT_S = 12.0


class Device:
    """The program runs until it ends by itself, at the latest until its `with` block ends."""

    def __init__(self, network: Network, *command: str) -> None:
        self.name = command[0]
        self.process = subprocess.Popen(
            [*network.enter, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @classmethod
    def python(cls, network: Network, module: str, *arguments: str) -> Self:
        device = cls(network, sys.executable, "-u", "-m", module, *arguments)
        device.name = module
        return device

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def type_line(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def read_line(self) -> str:
        """Waits for as long as the scenario's time limit lets it."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        check(line != "", f"{self.name} ended without a word")
        return line.rstrip("\n")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def finish(self, text: str | None = None, status: int = 0) -> str:
        """Types `text`, waits for the program to end with `status`, and returns what it printed."""
        try:
            output, _ = self.process.communicate(text, timeout=WAIT_S)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} has not ended within {WAIT_S:.0f} s") from None
        ended = self.process.returncode
        check(ended == status, f"{self.name} ended with {ended} instead of {status}: {output.strip()[-400:]}")
        return output
