"""The daemon ends and comes back: docs/service.md."""

import ctypes
import os
import sys
from pathlib import Path

from proof import eventually, fail, ok

from .load import Load
from .operator import BASE, connect, talk

PAGE = "docs/service.md"
PTRACE_SEIZE, PTRACE_INTERRUPT, WALL = 0x4206, 0x4207, 0x40000000


def stop_thread(pid, name):
    """Has a thread stand still until it is killed, and tells its number; none where that is not allowed."""
    thread = next(
        int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().strip() == name
    )
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, thread, None, None) != 0:
            return None
    os.waitpid(thread, WALL)
    return thread


def watchdog(operator):
    machine = operator.machine
    machine.write("/etc/systemd/system/dispatch.service.d/try.conf", "[Service]\nWatchdogSec=3s\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "dispatch")
    with operator.driver("--accept", "127.0.0.1") as driver, connect() as device:
        talk(driver, device)
        (pid,) = machine.processes()
        last = len(operator.fetch(f"{BASE}/shards")["shards"]) - 1
        thread = stop_thread(pid, f"shard-{last}")
        if thread is None:
            print("SKIPPED: threads cannot be stopped here; the watchdog is not tried", file=sys.stderr)
            return
        operator.logged("shards do not turn: the watchdog is not fed")
        # Its tracer has to take note of a thread's end.
        eventually("the thread is killed", lambda: os.waitpid(thread, WALL | os.WNOHANG)[0])
        eventually("systemd has started it again", lambda: machine.property("NRestarts") == "1")
        operator.logged("Failed with result 'watchdog'")
        eventually("it serves again", operator.is_ready)
        driver.until("the driver is back", "joined")
        with connect() as again:
            talk(driver, again, "after the watchdog")
    (machine.root / "etc/systemd/system/dispatch.service.d/try.conf").unlink()
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "dispatch")
    ok("a shard that stood still: systemd killed the daemon (watchdog) and started it again, and its driver is back")


def restart(operator):
    restart_under_load(operator, "systemctl restart under load")
    if operator.machine.property("NFileDescriptorStore") != "0":
        fail("the store still has the sockets that were given back")


def restart_under_load(operator, case, secured=None):
    """Nobody may be refused meanwhile; `secured` as the load has it."""
    machine = operator.machine
    with operator.driver("--accept", "127.0.0.1") as driver:
        with Load(operator.api, secured) as load:
            before = machine.property("MainPID")
            machine.run("systemctl", "restart", "dispatch")
            driver.until("the driver is back", "joined")
            load.moves_on()
            if machine.property("MainPID") == before:
                fail("it was not restarted")
        with connect() as device:
            talk(driver, device, "after the restart")
    ok(f"{case}: no connection refused or reset ({load.summary()}), and the driver is back")


def readdress(operator):
    """The settings that need a restart get it."""
    operator.restarts_with('host = "0.0.0.0"', "port = 8080", api=("127.0.0.1", 8080))
    status = operator.machine.property("StatusText")
    if "serve at 0.0.0.0:8080" not in status:
        fail(f"it does not listen where the file says: {status}")
    operator.restarts_with()
    ok("systemctl restart: it serves at another address when the file says so")


def activation(operator):
    """The API's listeners, plain and TLS, are systemd's own; then the daemon's again."""
    machine = operator.machine
    machine.write("/etc/systemd/system/dispatch.socket.d/try.conf", "[Socket]\nListenStream=3443\n")
    machine.run("systemctl", "daemon-reload")
    operator.types(PAGE, "systemctl enable dispatch.socket")
    operator.api = ("127.0.0.1", 8080)
    listening = [line.split()[3] for line in machine.run("ss", "--no-header", "-lnt").splitlines()]
    if sorted(listening) != ["*:3443", "*:8080"]:
        fail(f"systemd and the daemon listen at {listening}")
    secured = (("127.0.0.1", 3443), machine.root / "etc/dispatch/ca.pem")
    restart_under_load(operator, "with dispatch.socket, plain and TLS, the same", secured)
    machine.run("systemctl", "disable", "--now", "dispatch.socket")
    machine.run("rm", "-r", "/etc/systemd/system/dispatch.socket.d")
    operator.restarts_with()
