"""A Modbus/TCP device that reaches out to the daemon: pymodbus reads registers and says what it got.

Usage: modbus_device HOST PORT UNIT READS [then-wait]
"""

from __future__ import annotations

import sys

from pymodbus.client import ModbusTcpClient

BLOCK = 125


def main(host: str, port: str, unit: str, reads: str, *after: str) -> None:
    client = ModbusTcpClient(host, port=int(port), timeout=4, retries=0)
    if not client.connect():
        raise SystemExit("not connected")
    for block in range(int(reads)):
        answer = client.read_holding_registers(block * BLOCK, count=BLOCK, device_id=int(unit))
        if answer.isError():
            raise SystemExit(f"read {block}: {answer}")
        print("read", *answer.registers)
    answer = client.write_registers(7, [11, 22, 33], device_id=int(unit))
    print("wrote", answer.address, answer.count)
    if after == ("then-wait",):
        assert client.socket
        client.socket.settimeout(10)
        print("ended" if client.socket.recv(1) == b"" else "more bytes")
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
