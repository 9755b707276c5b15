"""Checks SNMP: net-snmp's traps are read, also a large one, and its inform is acknowledged through WRITE."""

from __future__ import annotations

from pyasn1.codec.ber import decoder, encoder
from pysnmp.proto.api import v2c

from .device import Device
from .message import Kind
from .rig import Rig
from .verdict import check, check_equal

PORT = 162
COMMUNITY = "corridor"
LINK_DOWN = "1.3.6.1.6.3.1.1.5.3"
TRAP_OID = "1.3.6.1.6.3.1.1.4.1.0"
IF_DESCR = "1.3.6.1.2.1.2.2.1.2"
CUT_OF_THE_ORIGINAL_BYTES = 2048


def notify(rig: Rig, port: int, program: str, names: list[str]) -> Device:
    """A linkDown with one ifDescr for each name."""
    described = [part for index, name in enumerate(names) for part in (f"{IF_DESCR}.{index}", "s", name)]
    options = ("-v", "2c", "-c", COMMUNITY, "-m", "", "-t", "5", "-r", "0")
    target = f"udp:{rig.network.daemon_ip}:{port}"
    return Device(rig.network, program, *options, target, "", LINK_DOWN, *described)


def read(datagram: bytes, pdu_type: str, names: list[str]) -> v2c.Message:
    """The decoded message, once community, kind, trap and values are those that were sent."""
    message, rest = decoder.decode(datagram, asn1Spec=v2c.Message())
    check_equal(rest, b"", "bytes behind the message")
    check_equal(str(v2c.apiMessage.get_community(message)), COMMUNITY, "community")
    pdu = v2c.apiMessage.get_pdu(message)
    check_equal(type(pdu).__name__, pdu_type, "kind of message")
    values = {str(oid): value.prettyPrint() for oid, value in v2c.apiPDU.get_varbinds(pdu)}
    check_equal(values.get(TRAP_OID), LINK_DOWN, "trap")
    check_equal([values.get(f"{IF_DESCR}.{index}") for index in range(len(names))], names, "ifDescr values")
    return message


def traps(rig: Rig) -> str:
    names = [letter * 900 for letter in "abcdefgh"]
    with rig.udp_driver(PORT) as driver:
        for sent in (["eth0"], names):
            with notify(rig, driver.port, "snmptrap", sent) as device:
                device.finish()
            datagram = driver.expect(Kind.RECEIVED, rig.network.device_ip).data
            read(datagram, "SNMPv2TrapPDU", sent)
    check(len(datagram) > CUT_OF_THE_ORIGINAL_BYTES, f"the large trap has only {len(datagram)} bytes")
    return f"snmptrap v2c linkDown decoded with community and values, also one of {len(datagram)} bytes"


def inform(rig: Rig) -> str:
    with rig.udp_driver(PORT) as driver, notify(rig, driver.port, "snmpinform", ["eth1"]) as device:
        request = driver.expect(Kind.RECEIVED, rig.network.device_ip)
        message = read(request.data, "InformRequestPDU", ["eth1"])
        driver.answer(request, encoder.encode(v2c.apiMessage.get_response(message)))
        device.finish()
    return "snmpinform v2c got the driver's acknowledgement and ended with 0"
