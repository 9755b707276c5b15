"""Checks KNX/IP tunnelling: the xknx program opens a tunnel to the driver; telegrams go both ways."""

from __future__ import annotations

from collections.abc import Callable

from xknx.cemi import CEMIFrame, CEMILData, CEMIMessageCode
from xknx.dpt import DPTTemperature
from xknx.knxip import (
    ConnectionStateRequest,
    ConnectionStateResponse,
    ConnectRequest,
    ConnectResponse,
    ConnectResponseData,
    DisconnectRequest,
    DisconnectResponse,
    KNXIPBody,
    KNXIPFrame,
    TunnellingAck,
    TunnellingRequest,
)
from xknx.telegram import GroupAddress, IndividualAddress, Telegram
from xknx.telegram.apci import APCI, GroupValueRead, GroupValueResponse, GroupValueWrite

from .device import Device
from .driver import Driver
from .message import Kind, Message
from .rig import Rig
from .verdict import check, check_equal

PORT = 3671
CHANNEL = 7
LAMP = "1/2/3"
TUNNEL_ADDRESS = IndividualAddress("1.1.250")
SENSOR_ADDRESS = IndividualAddress("1.1.4")


class Gateway:
    """The driver's side of one tunnel: confirms what the program sends and keeps the telegrams."""

    def __init__(self, rig: Rig, driver: Driver) -> None:
        self.ip = rig.network.device_ip
        self.driver = driver
        self.device_port = 0
        self.sent = 0
        self.acknowledged = 0
        self.is_open = False
        self.telegrams: list[Telegram] = []

    def serve(self, until: Callable[[], bool]) -> None:
        while not until():
            message = self.driver.expect(Kind.RECEIVED, self.ip)
            frame, rest = KNXIPFrame.from_knx(message.data)
            check_equal(rest, b"", "bytes behind the KNX/IP frame")
            self.react(message, frame.body)

    def serve_until_disconnected(self) -> None:
        self.serve(lambda: not self.is_open)
        check_equal(self.acknowledged, self.sent, "requests that the program acknowledged")

    def react(self, message: Message, body: KNXIPBody) -> None:
        if isinstance(body, ConnectRequest):
            self.device_port = message.id_or_port
            check_equal(body.control_endpoint.addr_tuple, (self.ip, self.device_port), "control endpoint")
            self.is_open = True
            crd = ConnectResponseData(individual_address=TUNNEL_ADDRESS)
            self.send(ConnectResponse(communication_channel=CHANNEL, crd=crd))
            return
        check_equal(message.id_or_port, self.device_port, "the tunnel's port")
        if isinstance(body, TunnellingRequest):
            self.send(TunnellingAck(communication_channel_id=CHANNEL, sequence_counter=body.sequence_counter))
            self.confirm(CEMIFrame.from_knx(body.raw_cemi))
        elif isinstance(body, TunnellingAck):
            self.acknowledged += 1
        elif isinstance(body, ConnectionStateRequest):
            self.send(ConnectionStateResponse(communication_channel_id=CHANNEL))
        else:
            check(isinstance(body, DisconnectRequest), f"unexpected: {body}")
            self.is_open = False
            self.send(DisconnectResponse(communication_channel_id=CHANNEL))

    def confirm(self, request: CEMIFrame) -> None:
        """Tells the program that the bus has its telegram (L_Data.con)."""
        check_equal(request.code, CEMIMessageCode.L_DATA_REQ, "cEMI code")
        assert isinstance(request.data, CEMILData)
        self.telegrams.append(request.data.telegram())
        self.tunnel(CEMIFrame(code=CEMIMessageCode.L_DATA_CON, data=request.data))

    def indicate(self, payload: APCI) -> None:
        """A telegram from the bus (L_Data.ind)."""
        telegram = Telegram(destination_address=GroupAddress(LAMP), payload=payload, source_address=SENSOR_ADDRESS)
        self.tunnel(CEMIFrame(code=CEMIMessageCode.L_DATA_IND, data=CEMILData.init_from_telegram(telegram)))

    def tunnel(self, frame: CEMIFrame) -> None:
        self.send(TunnellingRequest(CHANNEL, self.sent, frame.to_knx()))
        self.sent += 1

    def send(self, body: KNXIPBody) -> None:
        self.driver.write(self.ip, self.device_port, KNXIPFrame.init_from_body(body).to_knx())


def xknx(rig: Rig, driver: Driver, command: str, *arguments: str) -> Device:
    gateway = f"{rig.network.daemon_ip}:{driver.port}"
    options = ("--gateway", gateway, "--local-ip", rig.network.device_ip)
    return Device.python(rig.network, "xknx", "group", command, *options, *arguments)


def tunnelling(rig: Rig) -> str:
    # With blanks, as the KNX driver in the field writes its list.
    accept = f" {rig.network.device_ip} , {rig.network.bacnet_ip} "
    with rig.udp_driver(PORT, accept) as driver:
        write_from_device(rig, driver)
        read_by_device(rig, driver)
        monitor_on_device(rig, driver)
        driver.check_silence(0.3)
    return "xknx wrote 21.5 °C to the driver, read 19 °C back from it, and showed a telegram that nobody had asked for"


def write_from_device(rig: Rig, driver: Driver) -> None:
    with xknx(rig, driver, "write", "--type", "temperature", LAMP, "21.5") as device:
        gateway = Gateway(rig, driver)
        gateway.serve(lambda: bool(gateway.telegrams))
        gateway.serve_until_disconnected()
        device.finish()
    check_equal(len(gateway.telegrams), 1, "telegrams")
    telegram = gateway.telegrams[0]
    check(isinstance(telegram.payload, GroupValueWrite), f"not a GroupValueWrite: {telegram}")
    assert isinstance(telegram.payload, GroupValueWrite)
    check_equal(str(telegram.destination_address), LAMP, "group address")
    check_equal(telegram.source_address, TUNNEL_ADDRESS, "source, given out by the driver")
    check_equal(DPTTemperature.from_knx(telegram.payload.value), 21.5, "temperature")


def read_by_device(rig: Rig, driver: Driver) -> None:
    with xknx(rig, driver, "read", "--type", "temperature", LAMP) as device:
        gateway = Gateway(rig, driver)
        gateway.serve(lambda: bool(gateway.telegrams))
        check(isinstance(gateway.telegrams[0].payload, GroupValueRead), f"not a GroupValueRead: {gateway.telegrams}")
        gateway.indicate(GroupValueResponse(DPTTemperature.to_knx(19)))
        gateway.serve_until_disconnected()
        check_equal(float(device.finish()), 19.0, "temperature that the program printed")


def monitor_on_device(rig: Rig, driver: Driver) -> None:
    with xknx(rig, driver, "monitor") as device:
        gateway = Gateway(rig, driver)
        gateway.serve(lambda: gateway.is_open)
        gateway.indicate(GroupValueWrite(DPTTemperature.to_knx(-5)))
        gateway.serve(lambda: gateway.acknowledged == 1)
        line = device.read_line()
        check(str(SENSOR_ADDRESS) in line and LAMP in line, f"the monitor printed: {line}")
        device.interrupt()
        gateway.serve_until_disconnected()
        device.finish(status=130)
