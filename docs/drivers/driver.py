#!/usr/bin/env python3
"""A driver for devices that speak in lines: it sends each line of a device back to it.

    TOKEN=testing docs/drivers/driver.py ws://127.0.0.1:3000 6001 127.0.0.1,::1

It uses the package `websockets` (15 or newer), or plain_websocket.py beside it where that is not installed.
"""

import os
import struct
import sys
import time
from urllib.parse import urlencode

try:
    from websockets.exceptions import InvalidStatus, WebSocketException
    from websockets.sync.client import connect
except ImportError:
    from plain_websocket import InvalidStatus, WebSocketException, connect

OPENED, CLOSED, RECEIVED, WRITE, CLOSE = range(5)
PAUSE_S_MIN, PAUSE_S_MAX = 1, 10
LINE_BYTES_MAX = 64 * 1024


def decode(message):
    """The type, the device's address and id, and the data of a message."""
    end = message.index(0, 1)
    device_id, size = struct.unpack_from(">QI", message, end + 1)
    return message[0], message[1:end], device_id, message[end + 13 : end + 13 + size]


def encode(kind, address, device_id, data=b""):
    return bytes([kind]) + address + struct.pack(">xQI", device_id, len(data)) + data


def attend(socket):
    """Serves one session to its end. Its devices are its own, as ids start again with the next."""
    unfinished = {}  # What each device has sent of a line that has not ended.
    while True:
        kind, address, device_id, data = decode(socket.recv())
        if kind == OPENED:
            unfinished[device_id] = b""
        elif kind == CLOSED:
            del unfinished[device_id]
        elif kind == RECEIVED:
            # A read is not a line: it may hold a part of one, or several.
            *lines, rest = (unfinished[device_id] + data).split(b"\n")
            unfinished[device_id] = rest
            for line in lines:
                socket.send(encode(WRITE, address, device_id, line + b"\n"))
            if len(rest) > LINE_BYTES_MAX:
                unfinished[device_id] = b""
                socket.send(encode(CLOSE, address, device_id))


def main():
    daemon, port, accept = sys.argv[1:]
    url = f"{daemon}/api/dispatch/v1/tcp_dispatch?{urlencode({'port': port, 'accept': accept})}"
    headers = {"Authorization": "Bearer " + os.environ["TOKEN"], "X-Module-ID": "python-driver"}
    pause_s = PAUSE_S_MIN
    while True:
        try:
            with connect(url, additional_headers=headers) as socket:
                print(f"joined port {port}", flush=True)
                pause_s = PAUSE_S_MIN
                attend(socket)
        except InvalidStatus as error:
            print(f"refused with {error.response.status_code}: {error.response.body.decode()}", flush=True)
        except (OSError, WebSocketException) as error:
            print(f"no session: {error}", flush=True)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, PAUSE_S_MAX)


if __name__ == "__main__":
    main()
