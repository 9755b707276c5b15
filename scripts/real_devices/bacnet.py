"""Checks BACnet/IP: bacpypes3 is found by unicast, by broadcast and through a BBMD, announces itself, and is read."""

from __future__ import annotations

import struct

from bacpypes3.apdu import APDU, IAmRequest, ReadPropertyACK
from bacpypes3.npdu import NPDU
from bacpypes3.pdu import PDU
from bacpypes3.primitivedata import CharacterString

from .device import Device
from .driver import Driver
from .message import Kind, Message
from .rig import Rig
from .verdict import check, check_equal

PORT = 47808
DEVICE, BBMD = 599, 600
NAME = "lamp"
WHO_IS_MAX = 30

# BVLC functions, Annex J.2.
REGISTER_FOREIGN_DEVICE = 0x05
DISTRIBUTE_BROADCAST = 0x09
UNICAST = 0x0A
BROADCAST = 0x0B

NO_REPLY = b"\x01\x00"
EXPECTING_REPLY = b"\x01\x04"
WHO_IS = NO_REPLY + b"\x10\x08" + struct.pack(">BHBH", 0x0A, DEVICE, 0x1A, DEVICE)
READ_OBJECT_NAME = EXPECTING_REPLY + b"\x00\x05\x01\x0c\x0c" + struct.pack(">I", 8 << 22 | DEVICE) + b"\x19\x4d"
FOREIGN_FOR_60_S = struct.pack(">H", 60)


def datagram(function: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0x81, function, 4 + len(content)) + content


def service(message: Message) -> APDU:
    """What the device says, once the layers below it are right."""
    kind, function, size = struct.unpack_from(">BBH", message.data)
    check_equal((kind, size), (0x81, len(message.data)), "BVLC header")
    check(function in (UNICAST, BROADCAST), f"BVLC function {function:#x}")
    return APDU.decode(PDU(NPDU.decode(PDU(message.data[4:])).pduData))


def bacpypes3(rig: Rig, ip: str, instance: int, name: str, *options: str) -> Device:
    address = f"{ip}/{rig.network.prefix_bits}:{rig.network.bacnet_port}"
    arguments = ("--address", address, "--instance", str(instance), "--name", name, *options)
    return Device.python(rig.network, "bacpypes3", *arguments)


class Finder:
    """The driver's side: asks, and recognises the device's answers."""

    def __init__(self, rig: Rig, driver: Driver) -> None:
        self.network = rig.network
        self.driver = driver

    def send(self, ip: str, function: int, content: bytes) -> None:
        self.driver.write(ip, self.network.bacnet_port, datagram(function, content))

    def receive(self) -> Message:
        return self.driver.expect(Kind.RECEIVED, self.network.bacnet_ip, self.network.bacnet_port)

    def expect_i_am(self) -> Message:
        message = self.receive()
        i_am = IAmRequest.decode(service(message))
        check_equal(i_am.iAmDeviceIdentifier[1], DEVICE, "I-Am of device")
        return message

    def ask_until_found(self, ip: str, function: int) -> None:
        """The program says nowhere that it is ready, so the question is repeated until the first answer."""
        for _ in range(WHO_IS_MAX):
            self.send(ip, function, WHO_IS)
            if self.driver.has_message(wait_s=0.4):
                break
        self.expect_i_am()
        while self.driver.has_message(wait_s=0.3):
            self.expect_i_am()


def discovery(rig: Rig) -> str:
    network = rig.network
    with rig.udp_driver(PORT, network.bacnet_ip) as driver, bacpypes3(rig, network.bacnet_ip, DEVICE, NAME) as device:
        finder = Finder(rig, driver)
        finder.ask_until_found(network.bacnet_ip, UNICAST)
        finder.send(network.broadcast_ip, BROADCAST, WHO_IS)
        finder.expect_i_am()
        announced = announcement(rig, device, finder)
        finder.send(network.bacnet_ip, UNICAST, READ_OBJECT_NAME)
        name = ReadPropertyACK.decode(service(finder.receive())).propertyValue.cast_out(CharacterString)
        check_equal(str(name), NAME, "object-name")
        driver.check_silence(0.3)
    return f"bacpypes3 answered Who-Is by unicast and by broadcast, sent I-Am by {announced}, had its object-name read"


def announcement(rig: Rig, device: Device, finder: Finder) -> str:
    """The device's own I-Am; on loopback its broadcasts go to its own port, which is not the daemon's."""
    broadcast = rig.network.bacnet_port == PORT
    device.type_line("iam" if broadcast else f"iam {rig.network.daemon_ip}:{PORT}")
    function = finder.expect_i_am().data[1]
    check_equal(function, BROADCAST if broadcast else UNICAST, "BVLC function of the I-Am")
    return "broadcast" if broadcast else "unicast"


def through_bbmd(rig: Rig) -> str:
    """The BBMD's address is not accepted: WRITE reaches it all the same, and it is never heard."""
    network = rig.network
    with (
        rig.udp_driver(PORT, network.bacnet_ip) as driver,
        bacpypes3(rig, network.bacnet_ip, DEVICE, NAME),
        bacpypes3(rig, network.bbmd_ip, BBMD, "bbmd", "--bbmd", f"{network.bbmd_ip}:{network.bacnet_port}"),
    ):
        finder = Finder(rig, driver)
        finder.send(network.bbmd_ip, REGISTER_FOREIGN_DEVICE, FOREIGN_FOR_60_S)
        finder.ask_until_found(network.bbmd_ip, DISTRIBUTE_BROADCAST)
    return "a broadcast written to a bacpypes3 BBMD, which is not accepted, brought the I-Am of the accepted device"
