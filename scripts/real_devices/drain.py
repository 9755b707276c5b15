"""Checks the end: on SIGTERM a connected device is CLOSED, its driver gets 1001, and the daemon exits with 0."""

from __future__ import annotations

from .message import Kind
from .modbus import PORT, Responder, expected, pymodbus
from .rig import Rig
from .verdict import check_equal


def drain(rig: Rig) -> str:
    driver = rig.tcp_driver(PORT)
    with pymodbus(rig, driver, 4, 1, "then-wait") as device:
        responder = Responder(driver)
        responder.serve_requests(0, 2)
        check_equal([device.read_line(), device.read_line()], expected(4, 1), "what the device read")
        rig.daemon.ask_to_drain()
        driver.expect(Kind.CLOSED, rig.network.device_ip, 0)
        check_equal(driver.wait_for_end(), 1001, "close code")
        check_equal(device.finish(), "ended\n", "what the device saw")
        check_equal(rig.daemon.wait_for_exit(), 0, "exit status")
    return "SIGTERM with a pymodbus device connected: CLOSED, close code 1001, exit status 0"
