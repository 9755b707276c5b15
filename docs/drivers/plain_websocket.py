"""As much of a WebSocket client as driver.py needs, made of the standard library alone.

For machines on which nothing can be installed. It speaks no TLS, may be used by one thread only, and relies on the
daemon, which sends every message as one frame. Its names are those of the package `websockets`, which does more.
"""

import base64
import contextlib
import hashlib
import http.client
import os
import struct
from types import SimpleNamespace
from urllib.parse import urlsplit

BINARY, CLOSE, PING, PONG = 0x2, 0x8, 0x9, 0xA
FIN, MASKED = 0x80, 0x80
NORMAL = struct.pack(">H", 1000)
# The daemon pings a driver that is idle after 30 s, so that more silence than this means that it is gone.
SILENCE_S_MAX = 75
GOODBYE_S_MAX = 2


class WebSocketException(Exception):
    """The session has ended, or never began."""


class InvalidStatus(WebSocketException):
    """The join was refused."""

    def __init__(self, status_code, body):
        super().__init__(status_code)
        self.response = SimpleNamespace(status_code=status_code, body=body)


def connect(url, additional_headers):
    """Joins; raises InvalidStatus where that is refused, and OSError where nobody answers."""
    parts = urlsplit(url)
    key = base64.b64encode(os.urandom(16)).decode()
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=SILENCE_S_MAX)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}", headers=headers | additional_headers)
        answer = connection.getresponse()
    except http.client.HTTPException as error:
        raise WebSocketException(f"no HTTP answer: {error}") from error
    if answer.status != 101:
        raise InvalidStatus(answer.status, answer.read())
    # The constant is that of RFC 6455, section 1.3.
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    if answer.getheader("Sec-WebSocket-Accept") != base64.b64encode(digest).decode():
        raise WebSocketException("what answers speaks no WebSocket")
    return Session(connection, answer.fp)


class Session:
    """A joined session; leaving its `with` block says goodbye."""

    def __init__(self, connection, incoming):
        self._connection = connection
        self._incoming = incoming

    def recv(self):
        """Waits for the next message. Answers pings meanwhile."""
        while True:
            opcode, payload = self._receive_frame()
            if opcode == BINARY:
                return payload
            if opcode == PING:
                self._send_frame(PONG, payload)
            elif opcode == CLOSE:
                self._send_frame(CLOSE, payload)
                raise WebSocketException(f"closed with {int.from_bytes(payload[:2], 'big')} {payload[2:].decode()}")

    def send(self, message):
        """Sends a message. Waits while the daemon does not read."""
        self._send_frame(BINARY, message)

    def _receive_frame(self):
        first, size = self._read(2)
        if size == 126:
            (size,) = struct.unpack(">H", self._read(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._read(8))
        return first & 0x0F, self._read(size)

    def _read(self, size):
        data = self._incoming.read(size)
        if len(data) < size:
            raise WebSocketException("the connection has ended")
        return data

    def _send_frame(self, opcode, payload):
        size = len(payload)
        if size < 126:
            head = struct.pack(">BB", FIN | opcode, MASKED | size)
        elif size < 65536:
            head = struct.pack(">BBH", FIN | opcode, MASKED | 126, size)
        else:
            head = struct.pack(">BBQ", FIN | opcode, MASKED | 127, size)
        key = os.urandom(4)
        masked = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
        self._connection.sock.sendall(head + key + masked)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, WebSocketException):
            self._connection.sock.settimeout(GOODBYE_S_MAX)
            self._send_frame(CLOSE, NORMAL)
            while True:
                self.recv()
        self._connection.close()
