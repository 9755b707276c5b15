"""A machine: a root of Debian in which systemd runs as the first process, and the programs that run there.

Invariants: the machine ends with its Machine, and with this process, however that ends; of the host it changes nothing.
Not here: its network, which is this process's own (`scripts/try-systemd` makes it), and what is proven (the others).
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from proof import PATIENCE_S, Process, eventually, fail

BOOT = Path(__file__).parent / "boot"
ENVIRONMENT = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND=noninteractive",
]
# Ends a program with the one that has started it.
LEASH = ["setpriv", "--pdeathsig", "TERM"]


class Machine:
    def __init__(self, root):
        self.root = Path(root)
        # An installation has it, debootstrap does not.
        self.write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
        self.groups = ControlGroup()
        namespaces = ["--pid", "--fork", "--kill-child", "--mount", "--cgroup", "--uts", "--ipc"]
        self.keeper = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, BOOT, root],
            stdin=subprocess.DEVNULL,
            preexec_fn=self.groups.enter,
        )
        self.pid = None

    def boot(self):
        """Waits until systemd has started all that it starts."""
        children = Path(f"/proc/{self.keeper.pid}/task/{self.keeper.pid}/children")
        self.pid = eventually("the first process is there", lambda: children.read_text().strip())
        eventually("systemd is that process", lambda: Path(f"/proc/{self.pid}/comm").read_text() == "systemd\n")
        state = eventually("systemd has started", self.state)
        if state != "running":
            fail(f"systemd is {state}:\n{self.run('systemctl', '--no-pager', '--failed', check=False)}")

    def state(self):
        said = self.run("systemctl", "is-system-running", check=False).strip()
        return said if said in ("running", "degraded", "maintenance") else None

    def inside(self, *command, **variables):
        """The command line of a program in the machine, as its root, in that one's folder."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root"]
        environment = [f"{name}={value}" for name, value in variables.items()]
        # nsenter starts it as a child of its own.
        return [*LEASH, *enter, *LEASH, "env", "-i", "--chdir=/root", *ENVIRONMENT, *environment, *command]

    def run(self, *command, check=True, **variables):
        """Runs it to its end, and tells what it has said."""
        run = subprocess.run(
            self.inside(*command, **variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * PATIENCE_S,
        )
        if check and run.returncode != 0:
            fail(f"{' '.join(command)}: {run.returncode}\n{run.stdout}")
        return run.stdout

    def start(self, *command, **variables):
        return Process(self.inside(*command, **variables))

    def write(self, path, text):
        path = self.root / path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, path):
        return (self.root / path.lstrip("/")).read_text()

    def property(self, name, unit="dispatch"):
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def processes(self, unit="dispatch"):
        """The processes of a service, by their numbers here."""
        group = self.groups.path / "system.slice" / f"{unit}.service"
        return [int(number) for number in (group / "cgroup.procs").read_text().split()]

    def journal(self, unit="dispatch", after=None):
        """What a unit has said last, or since a cursor."""
        if self.pid is None:
            return ""
        part = f"--after-cursor={after}" if after else "--lines=50"
        return self.run("journalctl", "--no-pager", "--output=short", part, f"--unit={unit}", check=False)

    def end(self):
        self.keeper.kill()
        self.keeper.wait()
        self.groups.remove()


class ControlGroup:
    """A group of its own, at the root of the unified hierarchy, for all that runs in the machine."""

    def __init__(self):
        self.hierarchy = tempfile.mkdtemp(prefix="try-systemd-")
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", self.hierarchy], check=True)
        self.path = Path(self.hierarchy) / f"try-systemd-{os.getpid()}"
        self.path.mkdir()

    def enter(self):
        (self.path / "cgroup.procs").write_text("0")

    def remove(self):
        until = time.monotonic() + PATIENCE_S
        while self.path.exists() and time.monotonic() < until:
            for folder, _, _ in os.walk(self.path, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    # The last of its processes goes at this moment.
                    time.sleep(0.05)
        subprocess.run(["umount", self.hierarchy], check=True)
        os.rmdir(self.hierarchy)
