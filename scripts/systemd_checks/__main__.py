"""The walk of an operator, from the installation to the purge. `scripts/try-systemd` starts it."""

import argparse
import shutil
import signal
import sys
from pathlib import Path

from proof import fail

from . import balancing, installing, restarts, settings
from .machine import Machine
from .operator import Operator

SECONDS_MAX = 900
WALK = {
    "rights": installing.rights,
    "works": installing.works,
    "assessed": installing.assessed,
    "reload": settings.reloads,
    "watchdog": restarts.watchdog,
    "restart": restarts.restart,
    "readdress": restarts.readdress,
    "tls": settings.serves_tls,
    "activation": restarts.activation,
    "balanced": balancing.balanced,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("root")
    parser.add_argument("package")
    parser.add_argument("next")
    parser.add_argument("steps", nargs="*")
    arguments = parser.parse_args()
    for package in (arguments.package, arguments.next):
        shutil.copy(package, Path(arguments.root) / "root")
    signal.signal(signal.SIGALRM, lambda *_: fail(f"not done within {SECONDS_MAX} s"))
    signal.alarm(SECONDS_MAX)
    machine = Machine(arguments.root)
    try:
        machine.boot()
        operator = Operator(machine)
        installing.install(operator, arguments.package)
        for name, step in WALK.items():
            if not arguments.steps or name in arguments.steps:
                step(operator)
        installing.upgrade(operator, arguments.next)
        installing.leave(operator)
        print("try-systemd: all passed")
    except SystemExit:
        print(machine.journal(), file=sys.stderr)
        raise
    finally:
        machine.end()


if __name__ == "__main__":
    main()
