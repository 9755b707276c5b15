"""Speaks the daemon's HTTP: is it up, and what do its statistics say."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass
from typing import Any

from .verdict import check

HOST = "127.0.0.1"
NOTHING_OPEN: dict[str, dict[str, int]] = {"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}}


@dataclass(frozen=True)
class Api:
    port: int
    secret: str
    base: str = "/api/dispatch/v1"

    def statistics(self) -> dict[str, dict[str, int]]:
        statistics: dict[str, dict[str, int]] = self.fetch("")[1]
        return statistics

    def is_healthy(self) -> bool:
        try:
            return self.fetch("/healthz")[0] == 200
        except OSError:
            return False

    def wait_until_nothing_is_open(self, wait_s: float = 5) -> None:
        """Every port closes once its last driver has left."""
        deadline = time.monotonic() + wait_s
        while (open_now := self.statistics()) != NOTHING_OPEN:
            check(time.monotonic() < deadline, f"after the driver left, still open: {open_now}")
            time.sleep(0.05)

    def fetch(self, path: str) -> tuple[int, Any]:
        exchange = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            exchange.request("GET", self.base + path, headers=self.headers())
            answer = exchange.getresponse()
            body = answer.read()
            return answer.status, json.loads(body) if body else None
        finally:
            exchange.close()

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret}", "X-Module-ID": "mod-real-devices"}
