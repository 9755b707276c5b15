"""What the scripts that measure many idle devices share: a release daemon of one shard, drivers and devices on loopback."""

import os
import resource
import socket
import subprocess
import time
from pathlib import Path

API_PORT = 15990
PATIENCE_S = 30


def join(port: int) -> socket.socket:
    """Joins the port as a driver."""
    driver = socket.create_connection(("127.0.0.1", API_PORT))
    driver.sendall(
        f"GET /api/server/tcp_dispatch?port={port}&accept=127.0.0.0/8 HTTP/1.1\r\nHost: h\r\n"
        "Authorization: testing\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    if b" 101 " not in driver.recv(4096):
        raise RuntimeError("the join was refused")
    return driver


def drop_messages(driver: socket.socket) -> None:
    while driver.recv(65536):
        pass


def connect(port: int, count: int) -> list[socket.socket]:
    """Devices from many addresses, so that one address's ports suffice."""
    devices = []
    for number in range(count):
        device = socket.socket()
        device.bind((f"127.0.0.{2 + number % 100}", 0))
        device.connect(("127.0.0.1", port))
        devices.append(device)
    return devices


def start() -> subprocess.Popen:
    """A release daemon of one shard."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parent.parent / "target"))
    return subprocess.Popen([target / "release" / "dispatch", "-p", str(API_PORT), "-w", "1"], env={"LOG_LEVEL": "warn"})


def until_accepted() -> None:
    """Until the daemon lets a connection in: asks at once again where nobody listens."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            return socket.create_connection(("127.0.0.1", API_PORT)).close()
        except ConnectionRefusedError:
            time.sleep(0.0005)
    raise RuntimeError("the daemon does not listen")


def raise_descriptor_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
