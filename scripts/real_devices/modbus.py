"""Checks Modbus/TCP: devices connect and ask for registers, the driver answers each through WRITE."""

from __future__ import annotations

import struct
from collections import defaultdict

from .device import Device
from .driver import Driver
from .message import Kind
from .modbus_device import BLOCK
from .rig import Rig
from .verdict import check, check_equal

PORT = 502
READS = 20
HEADER = struct.Struct(">HHHB")
READ_HOLDING_REGISTERS = 3
WRITE_REGISTERS = 16


def register(unit: int, address: int) -> int:
    return (unit * 10_000 + address * 3) % 65_536


def answer(unit: int, request: bytes) -> bytes:
    """The response to one request's function code and what follows it."""
    function, address, count = struct.unpack_from(">BHH", request)
    if function == WRITE_REGISTERS:
        return struct.pack(">BHH", function, address, count)
    check_equal(function, READ_HOLDING_REGISTERS, "function code")
    values = [register(unit, address + offset) for offset in range(count)]
    return struct.pack(f">BB{count}H", function, 2 * count, *values)


class Responder:
    """The driver's side of every device: cuts the streams into requests and answers them."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.streams: dict[int, bytes] = defaultdict(bytes)
        self.answered: dict[int, int] = defaultdict(int)
        self.opened: list[int] = []
        self.closed: list[int] = []

    def serve(self, until_closed: int) -> None:
        """Until so many devices have been CLOSED."""
        while len(self.closed) < until_closed:
            self.step()

    def serve_requests(self, device_id: int, count: int) -> None:
        while self.answered[device_id] < count:
            self.step()

    def step(self) -> None:
        message = self.driver.receive()
        device_id = message.id_or_port
        if message.kind is Kind.OPENED:
            self.opened.append(device_id)
            return
        alive = device_id in self.opened and device_id not in self.closed
        check(alive, f"{message} outside the device's life")
        if message.kind is Kind.CLOSED:
            self.closed.append(device_id)
            return
        stream = self.streams[device_id] + message.data
        while len(stream) >= HEADER.size:
            transaction, protocol, size, unit = HEADER.unpack_from(stream)
            check_equal(protocol, 0, "Modbus protocol number")
            end = HEADER.size - 1 + size
            if len(stream) < end:
                break
            response = answer(unit, stream[HEADER.size : end])
            self.driver.answer(message, HEADER.pack(transaction, 0, len(response) + 1, unit) + response)
            self.answered[device_id] += 1
            stream = stream[end:]
        self.streams[device_id] = stream


def pymodbus(rig: Rig, driver: Driver, unit: int, reads: int, *after: str) -> Device:
    arguments = (rig.network.daemon_ip, str(driver.port), str(unit), str(reads), *after)
    return Device.python(rig.network, "real_devices.modbus_device", *arguments)


def expected(unit: int, reads: int) -> list[str]:
    lines = []
    for block in range(reads):
        values = [register(unit, block * BLOCK + offset) for offset in range(BLOCK)]
        lines.append(" ".join(["read", *map(str, values)]))
    return [*lines, "wrote 7 3"]


def two_at_once(rig: Rig) -> str:
    with rig.tcp_driver(PORT) as driver:
        responder = Responder(driver)
        with pymodbus(rig, driver, 1, READS) as first, pymodbus(rig, driver, 2, READS) as second:
            responder.serve(until_closed=2)
            check_equal(first.finish().splitlines(), expected(1, READS), "registers of unit 1")
            check_equal(second.finish().splitlines(), expected(2, READS), "registers of unit 2")
        check_equal(sorted(responder.opened), [0, 1], "ids")
        check_equal(sum(responder.answered.values()), 2 * (READS + 1), "requests")
        driver.check_silence(0.3)
    return f"2 pymodbus devices at once each read {READS * BLOCK} registers in {READS} requests, all right, then CLOSED"


def second_program(rig: Rig) -> str:
    with rig.tcp_driver(PORT) as driver:
        options = ("-m", "tcp", "-p", str(driver.port), "-a", "9", "-0", "-r", "40", "-c", "5", "-1")
        with Device(rig.network, "mbpoll", *options, rig.network.daemon_ip) as device:
            Responder(driver).serve(until_closed=1)
            lines = device.finish().splitlines()
        found = [line.split()[-1] for line in lines if line.startswith("[")]
        check_equal(found, [str(register(9, address)) for address in range(40, 45)], "registers")
    return "mbpoll (libmodbus) read 5 registers, all right, then CLOSED"


def reply_then_close(rig: Rig) -> str:
    with rig.tcp_driver(PORT) as driver:
        responder = Responder(driver)
        with pymodbus(rig, driver, 3, 2, "then-wait") as device:
            responder.serve_requests(0, 3)
            one = {str(driver.port): 1}
            open_now = {"udp_listeners": {}, "tcp_listeners": one, "tcp_clients": one}
            check_equal(rig.daemon.api.statistics(), open_now, "statistics")
            driver.close_device(rig.network.device_ip, 0)
            responder.serve(until_closed=1)
            check_equal(device.finish().splitlines(), [*expected(3, 2), "ended"], "what the device saw")
    return "CLOSE right behind the last reply: pymodbus got that reply whole, then the end, and the driver one CLOSED"
