"""What a scenario works with: a network, and a daemon that runs in it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .daemon import Daemon
from .driver import Driver
from .network import Network


@dataclass(frozen=True)
class Rig:
    network: Network
    daemon: Daemon

    def tcp_driver(self, standard_port: int) -> Driver:
        return Driver(self.daemon.api, "tcp", self.network.port(standard_port), self.network.device_ip)

    def udp_driver(self, standard_port: int, accept: str | None = None) -> Driver:
        """By the older base path, as the BACnet driver in the field does."""
        api = replace(self.daemon.api, base="/api/server")
        return Driver(api, "udp", self.network.port(standard_port), accept or self.network.device_ip)
