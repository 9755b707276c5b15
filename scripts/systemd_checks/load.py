"""Connects to the API and to a device port that never pause, and what became of each."""

import socket
import ssl
import threading
import time
from collections import Counter

from proof import PATIENCE_S, eventually, fail

from .operator import DEVICE_PORT

THREADS = 3
PAUSE_S = 0.004
REQUEST = b"GET /api/dispatch/v1/healthz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


class Load:
    """Devices that say a line, close, and wait for the end; health checks; and devices that stay until they are ended.

    Runs from `with` to its end, which fails where one connection was refused, reset or had no answer.
    """

    def __init__(self, api, secured=None):
        """`secured` is where the API speaks TLS and the authority to trust, if it does."""
        self.api, self.secured = api, secured
        self.counts, self.faults = Counter(), []
        self.lock, self.done = threading.Lock(), threading.Event()
        turns = (self.ask, self.come_and_go, self.stay) + (() if secured is None else (self.ask_secured,))
        self.threads = [threading.Thread(target=self.repeat, args=(turn,)) for turn in turns for _ in range(THREADS)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.moves_on()
        return self

    def __exit__(self, kind, error, traceback):
        self.done.set()
        for thread in self.threads:
            thread.join(2 * PATIENCE_S)
        if kind is None and self.faults:
            fail(f"{len(self.faults)} connections were not served: {self.faults[:3]}; served: {dict(self.counts)}")

    def moves_on(self):
        """Waits until each kind of connection was served some more times."""
        before = Counter(self.counts)

        def more():
            return all(self.counts[kind] >= before[kind] + 20 for kind in ("requests", "devices", "words"))

        eventually("the load goes on", more, lambda: f": {self.summary()}, {self.faults[:3]}")

    def repeat(self, turn):
        while not self.done.is_set():
            try:
                turn()
            except OSError as error:
                with self.lock:
                    self.faults.append(f"{turn.__name__}: {error!r}")
            time.sleep(PAUSE_S)

    def summary(self):
        return ", ".join(f"{count} {kind}" for kind, count in self.counts.items())

    def count(self, kind):
        with self.lock:
            self.counts[kind] += 1

    def ask(self):
        with socket.create_connection(self.api, PATIENCE_S) as stream:
            self.request(stream, "requests")

    def ask_secured(self):
        address, trusted = self.secured
        context = ssl.create_default_context(cafile=trusted)
        with socket.create_connection(address, PATIENCE_S) as stream:
            with context.wrap_socket(stream, server_hostname="localhost") as secured:
                self.request(secured, "requests with TLS")

    def request(self, stream, kind):
        stream.sendall(REQUEST)
        answer = read_all(stream)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise OSError(f"answered {answer[:60]}")
        self.count(kind)

    def come_and_go(self):
        with socket.create_connection(("127.0.0.1", DEVICE_PORT), PATIENCE_S) as stream:
            stream.sendall(b"a line\n")
            stream.shutdown(socket.SHUT_WR)
            read_all(stream)
        self.count("devices")

    def stay(self):
        with socket.create_connection(("127.0.0.1", DEVICE_PORT), PATIENCE_S) as stream:
            stream.setblocking(False)
            while not self.done.is_set():
                try:
                    if stream.recv(64) == b"":
                        return self.count("ended")
                except BlockingIOError:
                    stream.send(b"a word\n")
                    self.count("words")
                    time.sleep(PAUSE_S)


def read_all(stream):
    return b"".join(iter(lambda: stream.recv(4096), b""))
