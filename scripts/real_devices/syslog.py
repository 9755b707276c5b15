"""Checks syslog over TCP and UDP: util-linux `logger` sends, the driver reads RFC 5424."""

from __future__ import annotations

import re

from .device import Device
from .driver import Driver
from .message import Kind
from .rig import Rig
from .verdict import check, check_equal

PORT = 514
LINES = 200
LOCAL0_NOTICE = 16 * 8 + 5
ENTRY = re.compile(rb"<(\d+)>1 \S+ \S+ lamp - boot \[timeQuality [^\]]*\] (.*)", re.DOTALL)


def logger(rig: Rig, port: int, *options: str) -> Device:
    target = ("--server", rig.network.daemon_ip, "--port", str(port), "--rfc5424")
    return Device(
        rig.network, "logger", *target, "--tag", "lamp", "--priority", "local0.notice", "--msgid", "boot", *options
    )


def text(entry: bytes) -> bytes:
    """The entry's text, once everything before it is right."""
    parts = ENTRY.fullmatch(entry)
    check(parts is not None, f"not the RFC 5424 that logger was asked for: {entry[:120]!r}")
    assert parts
    check_equal(int(parts[1]), LOCAL0_NOTICE, "priority")
    return parts[2]


def octet_counted(stream: bytes) -> list[bytes]:
    """RFC 6587: each entry behind its size."""
    entries = []
    while stream:
        size, _, rest = stream.partition(b" ")
        check(size.isdigit() and len(rest) >= int(size), f"octet count is wrong at {stream[:60]!r}")
        entries.append(rest[: int(size)])
        stream = rest[int(size) :]
    return entries


def tcp(rig: Rig) -> str:
    with rig.tcp_driver(PORT) as driver:
        many_lines_in_order(rig, driver)
        three_at_once(rig, driver)
    return f"logger sent {LINES} lines on one connection, read in order; 3 at once as ids 1-3, each whole, then CLOSED"


def many_lines_in_order(rig: Rig, driver: Driver) -> None:
    with logger(rig, driver.port, "--tcp", "--octet-count") as device:
        device.finish("".join(f"line {number}\n" for number in range(LINES)))
        entries = octet_counted(driver.receive_stream(rig.network.device_ip, 0))
        check_equal([text(entry) for entry in entries], [b"line %d" % number for number in range(LINES)], "lines")


def three_at_once(rig: Rig, driver: Driver) -> None:
    devices = [logger(rig, driver.port, "--tcp", f"device {number}") for number in range(3)]
    for device in devices:
        with device:
            device.finish()
    streams: dict[int, bytes] = {}
    ended: set[int] = set()
    while len(ended) < 3:
        message = driver.receive()
        device_id = message.id_or_port
        if message.kind is Kind.OPENED:
            check(device_id not in streams, f"{message} for the second time")
            streams[device_id] = b""
        check(device_id in streams and device_id not in ended, f"{message} outside the device's life")
        streams[device_id] += message.data
        if message.kind is Kind.CLOSED:
            ended.add(device_id)
    check_equal(sorted(streams), [1, 2, 3], "ids")
    # Without octet counts each entry ends with a newline.
    texts = sorted(text(stream.removesuffix(b"\n")) for stream in streams.values())
    check_equal(texts, [b"device 0", b"device 1", b"device 2"], "texts")


def udp(rig: Rig) -> str:
    long_text = "x" * 6000
    with rig.udp_driver(PORT) as driver:
        with logger(rig, driver.port, "--udp") as device:
            device.finish("".join(f"line {number}\n" for number in range(50)))
        source = driver.expect(Kind.RECEIVED, rig.network.device_ip)
        check_equal(text(source.data), b"line 0", "first datagram")
        for number in range(1, 50):
            message = driver.expect(Kind.RECEIVED, rig.network.device_ip, source.id_or_port)
            check_equal(text(message.data), b"line %d" % number, "datagram")
        with logger(rig, driver.port, "--udp", "--size", "8KiB", long_text) as device:
            device.finish()
        message = driver.expect(Kind.RECEIVED, rig.network.device_ip)
        check_equal(text(message.data), long_text.encode(), "long datagram")
    return f"logger sent 50 datagrams from one port, read in order; one of {len(message.data)} bytes came whole"
