"""Debian's HAProxy, a unit of the same machine with a network and an address of its own: docs/operating.md."""

import json
from contextlib import contextmanager

from proof import fail, ok

from . import guide
from .operator import DEVICE_PORT, connect, talk

PAGE = "docs/operating.md"
# The guide's daemon and balancer; a device, and one that no driver accepts.
DAEMON, BALANCER, DEVICE, STRANGER = "10.0.0.3", "10.0.0.2", "10.0.0.7", "10.0.0.8"
NETWORK = "/run/netns/balancer"


def cable(machine):
    """HAProxy's network, from which this one is reached; devices have addresses of this side."""
    for command in (
        "ip netns add balancer",
        "ip link add to-balancer type veth peer name to-daemon netns balancer",
        f"ip address add {DAEMON}/24 dev to-balancer",
        f"ip address add {DEVICE}/24 dev to-balancer",
        f"ip address add {STRANGER}/24 dev to-balancer",
        "ip link set to-balancer up",
        "ip netns exec balancer ip link set lo up",
        f"ip netns exec balancer ip address add {BALANCER}/24 dev to-daemon",
        "ip netns exec balancer ip link set to-daemon up",
    ):
        machine.run(*command.split())


@contextmanager
def haproxy(operator):
    """The guide's configuration behind Debian's own, with version 2 of the header, which the guide allows."""
    machine = operator.machine
    said = guide.block(PAGE, "# haproxy.cfg")
    machine.write(
        "/etc/haproxy/haproxy.cfg",
        machine.read("/etc/haproxy/haproxy.cfg") + said.replace("send-proxy ", "send-proxy-v2 "),
    )
    machine.write("/etc/systemd/system/haproxy.service.d/try.conf", f"[Service]\nNetworkNamespacePath={NETWORK}\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "haproxy")
    try:
        yield
    finally:
        machine.run("systemctl", "stop", "haproxy")


def balanced(operator):
    machine = operator.machine
    cable(machine)
    words = guide.command(PAGE, "dispatch -b 0.0.0.0 -p 8080 --proxy-from").split()
    keys = {"-b": "host", "-p": "port", "--proxy-from": "proxy_from", "--device-proxy-from": "device_proxy_from"}
    given = zip(words[1::2], words[2::2])
    lines = [f"{keys[flag]} = {value if value.isdigit() else json.dumps(value)}" for flag, value in given]
    operator.restarts_with(*lines, api=(DAEMON, 8080))
    with haproxy(operator), operator.driver("--accept", DEVICE, "--url", f"http://{BALANCER}") as driver:
        found = operator.fetch("/api/dispatch/v1/drivers")["items"]
        if [row["address"] for row in found] != [DAEMON]:
            fail(f"the drivers are {found}")
        with connect(host=BALANCER, source=DEVICE) as device:
            number = talk(driver, device)
            row = operator.fetch(f"/api/dispatch/v1/devices/tcp/{DEVICE_PORT}/{number}")
            if (row["address"], row["remote_port"]) != device.getsockname():
                fail(f"the device is {row}")
        with connect(host=BALANCER, source=STRANGER) as stranger:
            if stranger.recv(1) != b"":
                fail("a stranger was let in")
        refused = operator.fetch(f"/api/dispatch/v1/refused?address={STRANGER}")["items"]
        if [row["reason"] for row in refused] != ["source"]:
            fail(f"a stranger is refused as {refused}")
    ok(f"HAProxy in front, with PROXY v2: driver, device {DEVICE} and stranger are known by their own addresses")
