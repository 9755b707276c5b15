"""Where the daemon and the devices run: in two network namespaces joined by a cable, or both on loopback."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .verdict import Failure

# Ends the program with this one, however this one ends.
LEASH = ("setpriv", "--pdeathsig", "KILL")
HOLDER_S_MAX = "600"


@dataclass(frozen=True)
class Network:
    """`enter` runs a program among the devices. BACnet devices have an address of their own."""

    name: str
    daemon_ip: str
    device_ip: str
    bacnet_ip: str
    bbmd_ip: str
    broadcast_ip: str
    prefix_bits: int
    bacnet_port: int
    enter: tuple[str, ...]
    has_all_ports: bool

    def port(self, standard: int) -> int:
        return standard if self.has_all_ports or standard >= 1024 else standard + 10_000


def loopback() -> Network:
    """A BACnet device cannot share the daemon's port here: the daemon has it on every address."""
    return Network(
        name="loopback",
        daemon_ip="127.0.0.1",
        device_ip="127.0.0.1",
        bacnet_ip="127.0.0.2",
        bbmd_ip="127.0.0.3",
        broadcast_ip="127.255.255.255",
        prefix_bits=8,
        bacnet_port=47809,
        enter=LEASH,
        has_all_ports=os.geteuid() == 0,
    )


@contextmanager
def cable() -> Iterator[Network]:
    """Needs this process to be root of a network namespace of its own; leaves nothing behind."""
    holder = subprocess.Popen([*LEASH, "unshare", "--net", "sleep", HOLDER_S_MAX])
    try:
        wait_for_namespace(holder.pid)
        there = ("nsenter", "--target", str(holder.pid), "--net")
        for command in (
            f"ip link add to-devices type veth peer name to-daemon netns {holder.pid}",
            "ip link set lo up",
            "ip address add 10.77.0.1/24 brd + dev to-devices",
            "ip link set to-devices up",
        ):
            run(*command.split())
        for command in (
            "ip link set lo up",
            "ip address add 10.77.0.2/24 brd + dev to-daemon",
            "ip address add 10.77.0.3/24 brd + dev to-daemon",
            "ip address add 10.77.0.4/24 brd + dev to-daemon",
            "ip link set to-daemon up",
        ):
            run(*there, *command.split())
        yield Network(
            name="two network namespaces, veth cable",
            daemon_ip="10.77.0.1",
            device_ip="10.77.0.2",
            bacnet_ip="10.77.0.3",
            bbmd_ip="10.77.0.4",
            broadcast_ip="10.77.0.255",
            prefix_bits=24,
            bacnet_port=47808,
            enter=(*there, *LEASH),
            has_all_ports=True,
        )
    finally:
        holder.kill()
        holder.wait()


def wait_for_namespace(pid: int) -> None:
    ours = os.readlink("/proc/self/ns/net")
    theirs = Path(f"/proc/{pid}/ns/net")
    for _ in range(100):
        if os.readlink(theirs) != ours:
            return
        time.sleep(0.02)
    raise Failure("no network namespace for the devices")


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}: {done.stderr.strip()}")
