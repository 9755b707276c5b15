"""Who runs the daemon: types what the guides say, is a driver and a device, and asks the API."""

import json
import socket
import urllib.request
from contextlib import contextmanager

from proof import PATIENCE_S, eventually, fail

from . import guide

BASE = "/api/dispatch/v1"
SECRET = "a secret of this try"
DEVICE_PORT = 6001
# Where the daemon is unless it is told otherwise.
API = ("127.0.0.1", 3000)


class Operator:
    def __init__(self, machine):
        self.machine = machine
        self.api = API

    def types(self, page, start, **values):
        """Runs a command of a guide."""
        return self.machine.run("sh", "-c", guide.command(page, start, **values))

    def tries(self, command):
        """Runs what may fail, and tells what was said."""
        return self.machine.run("sh", "-c", command, check=False)

    def sets(self, *lines):
        """Writes the configuration file."""
        self.machine.write("/etc/dispatch/dispatch.toml", "\n".join(lines) + "\n")

    def restarts_with(self, *lines, api=API):
        """Restarts the service with such a file, which says that the API is there."""
        self.sets(*lines)
        self.machine.run("systemctl", "restart", "dispatch")
        self.api = api
        if not self.is_ready():
            fail(f"nobody is ready at {api}: {self.machine.property('StatusText')}")

    def fetch(self, path):
        request = urllib.request.Request(f"http://{self.api[0]}:{self.api[1]}{path}")
        request.add_header("Authorization", f"Bearer {SECRET}")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.loads(answer.read() or "null")

    def is_ready(self):
        try:
            self.fetch(f"{BASE}/readyz")
            return True
        except OSError:
            return False

    @contextmanager
    def driver(self, *flags, port=DEVICE_PORT):
        """A driver on this machine, with the service's secret, which has joined."""
        if "--url" not in flags:
            flags = (*flags, "--url", f"http://{self.api[0]}:{self.api[1]}")
        command = ["dispatch", "listen", "tcp", str(port), "--json", *flags]
        driver = self.machine.start(*command, SECRETS_PATH="/etc/dispatch/secrets")
        try:
            driver.until("a driver joins", "joined")
            yield driver
        finally:
            driver.end()

    def reload(self, *texts):
        """Reloads the service, and tells the line of its journal with all of these that came of it."""
        cursor = self.machine.run("journalctl", "--lines=0", "--show-cursor").split("cursor: ")[1].strip()
        self.machine.run("systemctl", "reload", "dispatch")
        return self.logged(*texts, after=cursor)

    def logged(self, *texts, after=None):
        """A line of the service's journal with all of these."""

        def probe():
            said = self.machine.journal(after=after).splitlines()
            return next((line for line in said if all(text in line for text in texts)), None)

        return eventually(f"the journal has {texts}", probe)


def connect(port=DEVICE_PORT, host="127.0.0.1", source=""):
    device = socket.socket()
    device.settimeout(PATIENCE_S)
    device.bind((source, 0))
    device.connect((host, port))
    return device


def talk(driver, device, words="from the device"):
    """Both ways between a driver and its device; tells how the driver calls the device."""
    address = device.getsockname()[0]
    device.sendall(f"{words}\n".encode())
    heard = json.loads(driver.until("the device is heard", '"received"', f'"{address}"', words))
    driver.write(f"@{heard['id']} to the device\n")
    if device.recv(64) != b"to the device\n":
        fail("the device was sent something else")
    return heard["id"]
