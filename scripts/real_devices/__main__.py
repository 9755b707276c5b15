"""Runs every scenario with each number of shards and prints one line for each, then the summary."""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType

from . import bacnet, drain, knx, modbus, snmp, syslog
from .daemon import Daemon
from .network import Network, cable, loopback
from .rig import Rig
from .verdict import Failure, time_limit

SCENARIO_S_MAX = 25.0
RUN_S_MAX = 270.0
REASON_CHARS_MAX = 500

# The drain is last: it ends the daemon.
SCENARIOS: dict[str, Callable[[Rig], str]] = {
    "syslog-tcp": syslog.tcp,
    "syslog-udp": syslog.udp,
    "snmp-trap": snmp.traps,
    "snmp-inform": snmp.inform,
    "modbus-tcp": modbus.two_at_once,
    "modbus-mbpoll": modbus.second_program,
    "modbus-close": modbus.reply_then_close,
    "bacnet-ip": bacnet.discovery,
    "bacnet-bbmd": bacnet.through_bbmd,
    "knx-tunnelling": knx.tunnelling,
    "drain": drain.drain,
}


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, end_in_order)
    deadline = time.monotonic() + RUN_S_MAX
    network: AbstractContextManager[Network] = nullcontext(loopback()) if options.loopback else cable()
    with network as place:
        print(f"network: {place.name}", flush=True)
        passed = [fine for shards in options.shards for fine in run(place, options, shards, deadline)]
    print(f"{passed.count(True)} passed, {passed.count(False)} failed")
    return 0 if passed and all(passed) else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="real-devices")
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--loopback", action="store_true")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 3])
    parser.add_argument("scenarios", nargs="*")
    options = parser.parse_args()
    unknown = set(options.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    return options


def run(network: Network, options: argparse.Namespace, shards: int, deadline: float) -> Iterator[bool]:
    try:
        with Daemon(options.binary, shards, options.logs / f"daemon-{shards}.log") as daemon:
            for name in options.scenarios or SCENARIOS:
                yield run_one(Rig(network, daemon), name, shards, deadline)
    except Failure as failure:
        report(False, "start", shards, str(failure))
        yield False


def run_one(rig: Rig, name: str, shards: int, deadline: float) -> bool:
    try:
        with time_limit(max(1, min(SCENARIO_S_MAX, deadline - time.monotonic()))):
            rig.daemon.check_alive()
            verified = SCENARIOS[name](rig)
    except Exception as fault:  # Whatever a third-party decoder raises is this scenario's failure, not the run's end.
        reason = str(fault) if isinstance(fault, Failure) else f"{type(fault).__name__}: {fault}"
        return report(False, name, shards, reason)
    return report(True, name, shards, verified)


def report(fine: bool, name: str, shards: int, text: str) -> bool:
    line = textwrap.shorten(text, REASON_CHARS_MAX, placeholder=" …")
    print(f"{'ok ' if fine else 'FAIL'} {name}, {shards} shard{'s' * (shards != 1)}: {line}", flush=True)
    return fine


def end_in_order(_signal: int, _frame: FrameType | None) -> None:
    """Lets every `with` block end what it started."""
    raise SystemExit(143)


sys.exit(main())
