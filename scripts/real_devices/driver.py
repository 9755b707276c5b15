"""A driver: one WebSocket joined to one port of the daemon."""

from __future__ import annotations

from types import TracebackType
from typing import Self
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from .api import HOST, Api
from .message import Kind, Message
from .verdict import Failure, check

WAIT_S = 5.0


class NothingCame(Failure):
    pass


class SessionEnded(Failure):
    def __init__(self, end: ConnectionClosed) -> None:
        super().__init__(f"the daemon ended the session: {end}")
        self.code: int = end.rcvd.code if end.rcvd else 1006


class Driver:
    """Joined from construction until its `with` block ends; then the port must be closed again."""

    def __init__(self, api: Api, transport: str, port: int, accept: str) -> None:
        self.api = api
        self.port = port
        self.kept: Message | None = None
        query = urlencode({"port": port, "accept": accept})
        self.socket = connect(
            f"ws://{HOST}:{api.port}{api.base}/{transport}_dispatch?{query}",
            additional_headers=api.headers(),
            compression=None,
            proxy=None,
            open_timeout=WAIT_S,
            close_timeout=WAIT_S,
            max_size=None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        if kind is None:
            self.api.wait_until_nothing_is_open()

    def receive(self, wait_s: float = WAIT_S) -> Message:
        if self.kept is not None:
            message, self.kept = self.kept, None
            return message
        try:
            raw = self.socket.recv(timeout=wait_s)
        except TimeoutError:
            raise NothingCame(f"nothing from the daemon for {wait_s:.1f} s") from None
        except ConnectionClosed as end:
            raise SessionEnded(end) from None
        if isinstance(raw, str):
            raise Failure(f"a text message from the daemon: {raw!r}")
        try:
            return Message.decode(raw)
        except ValueError as fault:
            raise Failure(f"not a message: {fault}") from None

    def expect(self, kind: Kind, ip: str, id_or_port: int | None = None) -> Message:
        """The next message, which must be of this kind and device."""
        message = self.receive()
        fits = (message.kind, message.ip) == (kind, ip) and id_or_port in (None, message.id_or_port)
        check(fits, f"{message} instead of {kind.name} {ip} {'' if id_or_port is None else id_or_port}")
        return message

    def receive_stream(self, ip: str, device_id: int) -> bytes:
        """All that one TCP device sends, from its OPENED to its CLOSED."""
        self.expect(Kind.OPENED, ip, device_id)
        stream = b""
        while (message := self.receive()).kind is Kind.RECEIVED:
            check(message.id_or_port == device_id, f"{message} from another device")
            stream += message.data
        check((message.kind, message.id_or_port) == (Kind.CLOSED, device_id), f"{message} instead of CLOSED")
        return stream

    def write(self, ip: str, id_or_port: int, data: bytes) -> None:
        self.socket.send(Message(Kind.WRITE, ip, id_or_port, data).encode())

    def answer(self, request: Message, data: bytes) -> None:
        self.write(request.ip, request.id_or_port, data)

    def close_device(self, ip: str, device_id: int) -> None:
        self.socket.send(Message(Kind.CLOSE, ip, device_id).encode())

    def has_message(self, wait_s: float) -> bool:
        """Whether one comes within the time; it is kept for `receive`."""
        if self.kept is None:
            try:
                self.kept = self.receive(wait_s)
            except NothingCame:
                return False
        return True

    def check_silence(self, wait_s: float) -> None:
        """Nothing more may come, such as a second CLOSED."""
        check(not self.has_message(wait_s), f"unexpected: {self.kept}")

    def wait_for_end(self) -> int:
        """The close code with which the daemon ends the session."""
        try:
            message = self.receive()
        except SessionEnded as end:
            return end.code
        raise Failure(f"instead of the session's end: {message}")
