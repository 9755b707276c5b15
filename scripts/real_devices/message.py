"""Encodes and decodes the messages between daemon and driver, sharing no code with the daemon."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

TAIL = struct.Struct(">QI")


class Kind(IntEnum):
    OPENED = 0
    CLOSED = 1
    RECEIVED = 2
    WRITE = 3
    CLOSE = 4


@dataclass(frozen=True)
class Message:
    kind: Kind
    ip: str
    id_or_port: int
    data: bytes = b""

    def encode(self) -> bytes:
        address = self.ip.encode("ascii") + b"\0"
        return bytes([self.kind]) + address + TAIL.pack(self.id_or_port, len(self.data)) + self.data

    @classmethod
    def decode(cls, raw: bytes) -> Message:
        """Raises ValueError where the bytes are not exactly one message."""
        kind = Kind(raw[0])
        address_end = raw.index(0, 1)
        if len(raw) < address_end + 1 + TAIL.size:
            raise ValueError(f"{kind.name} ends inside its header: {raw.hex()}")
        id_or_port, data_bytes = TAIL.unpack_from(raw, address_end + 1)
        data = raw[address_end + 1 + TAIL.size :]
        if len(data) != data_bytes:
            raise ValueError(f"{kind.name} announces {data_bytes} bytes and carries {len(data)}")
        return cls(kind, raw[1:address_end].decode("ascii"), id_or_port, data)

    def __str__(self) -> str:
        start = self.data[:40].hex() + ("…" if len(self.data) > 40 else "")
        return f"{self.kind.name} {self.ip} {self.id_or_port} ({len(self.data)} bytes: {start})"
