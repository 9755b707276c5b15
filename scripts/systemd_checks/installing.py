"""The package comes and goes: docs/packages.md, and what the unit says of the daemon's rights."""

from pathlib import Path
from resource import RLIMIT_MEMLOCK, RLIMIT_NOFILE, getrlimit

from proof import fail, ok

from .load import Load
from .operator import BASE, SECRET, connect, talk

PAGE = "docs/packages.md"
UNITS = "/usr/lib/systemd/system"
# CAP_NET_BIND_SERVICE.
CAPABILITIES = 1 << 10
SECCOMP_FILTER = "2"
# What the unit gives, and what this program has.
LIMITS = {"Max open files": (105264, RLIMIT_NOFILE), "Max locked memory": (64 << 20, RLIMIT_MEMLOCK)}


def install(operator, package):
    machine = operator.machine
    machine.write("/root/secret", SECRET + "\n")
    said = operator.types(PAGE, "apt install ./", **{"uring-dispatch_VERSION_amd64.deb": Path(package).name})
    if "systemctl enable --now dispatch" not in said:
        fail(f"the package does not say how to start it: {said}")
    if machine.property("ActiveState") != "inactive":
        fail("the package has started the daemon")
    operator.types(PAGE, "install -m 640 -g dispatch", SECRET_FILE="secret")
    operator.types(PAGE, "systemctl enable --now dispatch")
    state = [machine.property(name) for name in ("ActiveState", "SubState", "UnitFileState", "Type")]
    if state[:3] != ["active", "running", "enabled"] or state[3] not in ("notify", "notify-reload"):
        fail(f"it is {state}: {machine.journal()}")
    shards = len(operator.fetch(f"{BASE}/shards")["shards"])
    status = machine.property("StatusText")
    if status != f"{shards} shards serve at 127.0.0.1:3000":
        fail(f"its status is {status!r}")
    ok(f"installed and started as the guide says: {state[3]}, {status!r}")


def rights(operator):
    """What the kernel says of the process, and not the unit."""
    machine = operator.machine
    (pid,) = machine.processes()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    user = machine.run("id", "-u", "dispatch").strip()
    if status["Uid"].split() != [user] * 4:
        fail(f"it runs as {status['Uid']}")
    if (status["NoNewPrivs"], status["Seccomp"]) != ("1", SECCOMP_FILTER):
        fail(f"NoNewPrivs {status['NoNewPrivs']}, Seccomp {status['Seccomp']}")
    held = {name: int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh")}
    if set(held.values()) != {CAPABILITIES}:
        fail(f"it has the capabilities {held}")
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    for name, (wanted, own) in LIMITS.items():
        # Even root may be denied to raise them.
        allowed = [wanted, getrlimit(own)[1]]
        found = next(line for line in limits if line.startswith(name)).split()[3:5]
        if found[0] != found[1] or int(found[0]) not in allowed:
            fail(f"{name}: {found}")
    mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
    if "ro" not in options["/"] or any("ro" not in options[place] for place in ("/proc/sys", "/sys/fs/cgroup")):
        fail(f"it may write: {options}")
    rings = [fd for fd in Path(f"/proc/{pid}/fd").iterdir() if "io_uring" in str(fd.readlink())]
    if len(rings) < len(operator.fetch(f"{BASE}/shards")["shards"]):
        fail(f"it has {len(rings)} rings")
    ok(f"its rights: user {user}, one capability, limits, read-only; {len(rings)} rings under seccomp")


def assessed(operator):
    machine = operator.machine
    units = [f"{UNITS}/dispatch.service", f"{UNITS}/dispatch.socket"]
    verified = machine.run("systemd-analyze", "verify", "--man=no", *units)
    faults = [line for line in verified.splitlines() if "dispatch." in line and "notify-reload" not in line]
    if faults:
        fail(f"systemd-analyze verify: {faults}")
    score = machine.run("systemd-analyze", "security", "--no-pager", "dispatch").strip().splitlines()[-1]
    ok(f"systemd-analyze verifies the units, and says: {score.lstrip('→ ')}")


def works(operator):
    with operator.driver("--accept", "127.0.0.1") as driver, connect() as device:
        talk(driver, device)
        rows = operator.fetch(f"{BASE}/devices")["items"]
        if [(row["address"], row["remote_port"]) for row in rows] != [device.getsockname()]:
            fail(f"the devices are {rows}")
    ok("a driver joins, a device connects, and bytes go both ways")


def upgrade(operator, package):
    """To a next version with another default configuration, amid a load."""
    machine = operator.machine
    changed = machine.read("/etc/dispatch/dispatch.toml") + "# Ours.\n"
    machine.write("/etc/dispatch/dispatch.toml", changed)
    before = machine.property("MainPID")
    with operator.driver("--accept", "127.0.0.1") as driver:
        with Load(operator.api) as load:
            # What dpkg would ask about the changed file, of which the guide says that it stays.
            keep = ("-o", "Dpkg::Options::=--force-confold")
            said = machine.run("apt", "install", "-y", *keep, f"./{Path(package).name}")
            if "systemctl restart dispatch" not in said or machine.property("MainPID") != before:
                fail(f"the upgrade has touched the daemon: {said}")
            load.moves_on()
            operator.types(PAGE, "systemctl restart dispatch")
            driver.until("the driver is back", "joined")
            load.moves_on()
        with connect() as device:
            talk(driver, device, "after the upgrade")
    if machine.property("MainPID") == before or machine.read("/etc/dispatch/dispatch.toml") != changed:
        fail("the old daemon runs, or its settings are gone")
    ok(f"upgraded amid a load, then restarted: nobody was refused ({load.summary()})")


def leave(operator):
    machine = operator.machine
    machine.run("apt-get", "remove", "-y", "uring-dispatch")
    if machine.property("ActiveState") != "inactive" or machine.property("LoadState") != "not-found":
        fail("the daemon runs without its package")
    if not (machine.root / "etc/dispatch/secrets/PLACE_SERVER_SECRET").exists():
        fail("a removal takes the secrets")
    machine.run("apt-get", "purge", "-y", "uring-dispatch")
    left = [
        place for place in ("etc/dispatch/secrets", "etc/dispatch/dispatch.toml") if (machine.root / place).exists()
    ]
    units = [str(path) for path in (machine.root / "etc/systemd/system").rglob("*") if "dispatch" in path.name]
    if left or units:
        fail(f"a purge leaves {left + units}")
    machine.run("id", "dispatch")
    ok("removed: the daemon has ended, /etc stays; purged: only the user is left")
