"""Starts the daemon under test and ends it, that one process and no other."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from .api import HOST, Api
from .network import LEASH
from .verdict import Failure, check

START_S_MAX = 10.0
DRAIN_S_MAX = 12.0


class Daemon:
    """Answers its health check from `__enter__` on."""

    def __init__(self, binary: Path, shards: int, log: Path) -> None:
        self.log = log
        self.api = Api(free_port(), secrets.token_urlsafe(16))
        with log.open("w") as sink:
            self.process = subprocess.Popen(
                [*LEASH, str(binary), "-b", HOST, "-p", str(self.api.port), "-w", str(shards)],
                env={"PATH": os.environ["PATH"], "PLACE_SERVER_SECRET": self.api.secret},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + START_S_MAX
        while not self.api.is_healthy():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise Failure(f"the daemon has not started; its log ends: {self.log_tail()}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def ask_to_drain(self) -> None:
        self.process.terminate()

    def wait_for_exit(self) -> int:
        try:
            return self.process.wait(DRAIN_S_MAX)
        except subprocess.TimeoutExpired:
            raise Failure(f"the daemon still runs {DRAIN_S_MAX:.0f} s after SIGTERM") from None

    def check_alive(self) -> None:
        status = self.process.poll()
        check(status is None, f"the daemon has ended with {status}; its log ends: {self.log_tail()}")

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-600:].strip()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
