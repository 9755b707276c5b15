"""Settings and certificates change while the daemon runs: docs/configuration.md and docs/tls.md."""

import socket
import ssl

from proof import PATIENCE_S, eventually, fail, ok

from . import guide
from .operator import connect, talk

TLS_PAGE = "docs/tls.md"
TLS_PORT = 3443
HOOK = "/etc/letsencrypt/renewal-hooks/deploy/dispatch"


def reloads(operator):
    """A changed file, then a bad one, with a driver and a device that stay."""
    machine = operator.machine
    with operator.driver("--accept", "127.0.0.1") as driver, connect() as device:
        talk(driver, device, "before the reload")
        operator.sets("devices_per_port_max = 1")
        operator.reload("the settings were reloaded")
        with connect() as refused:
            if refused.recv(1) != b"":
                fail("the new limit of devices does not hold")
        talk(driver, device, "after the reload")
        ok("systemctl reload: what changed is in force, and nobody was dropped")
        operator.sets("devices_per_port_max = 2", 'stall_ms_max = "soon"')
        said = operator.reload("the settings were not reloaded; those from before stay in force")
        if "--stall-ms-max" not in said or "line 2" not in said:
            fail(f"the journal does not say what is wrong: {said}")
        status = operator.tries("systemctl status --no-pager dispatch")
        if "the settings were not reloaded" not in status or machine.property("ActiveState") != "active":
            fail(f"systemctl status does not tell of it: {status}")
        with connect() as refused:
            if refused.recv(1) != b"":
                fail("a bad file has changed a limit")
        talk(driver, device, "after a bad reload")
    ok("a bad file changes nothing; systemctl status and the journal say which line")
    said = operator.tries("SECRETS_PATH=/etc/dispatch/secrets dispatch check-config && systemctl restart dispatch")
    if "--stall-ms-max" not in said or machine.property("NRestarts") != "0":
        fail(f"check-config lets a restart go on: {said}")
    operator.sets()
    operator.reload("the settings were reloaded")


def authority(machine):
    """Makes one with openssl, and gives it to drivers."""
    machine.run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"),
        *("-subj", "/CN=ca", "-keyout", "/root/ca.key", "-out", "/etc/dispatch/ca.pem"),
    )
    return str(machine.root / "etc/dispatch/ca.pem")


def renew(machine, name):
    """A certificate of that authority, where certbot would have put it, and what certbot would run then."""
    folder = f"/etc/letsencrypt/live/{name}"
    machine.run("mkdir", "-p", folder)
    machine.run(
        *("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"),
        *("-addext", "subjectAltName=DNS:localhost", "-keyout", f"{folder}/privkey.pem", "-out", "/root/request.pem"),
    )
    machine.run(
        *(
            "openssl",
            "x509",
            "-req",
            "-in",
            "/root/request.pem",
            "-CA",
            "/etc/dispatch/ca.pem",
            "-CAkey",
            "/root/ca.key",
        ),
        *("-days", "20", "-copy_extensions", "copy", "-out", f"{folder}/fullchain.pem"),
    )
    machine.write(HOOK, "#!/bin/sh -e\n" + guide.block(TLS_PAGE, "#!/bin/sh -e"))
    machine.run("sh", "-e", HOOK, RENEWED_LINEAGE=folder)


def served_name(trusted):
    context = ssl.create_default_context(cafile=trusted)
    with socket.create_connection(("127.0.0.1", TLS_PORT), timeout=PATIENCE_S) as plain:
        with context.wrap_socket(plain, server_hostname="localhost") as secured:
            return dict(pair for (pair,) in secured.getpeercert()["subject"])["commonName"]


def serves_tls(operator):
    """The guide's file; a driver by wss; a renewed certificate."""
    machine = operator.machine
    trusted = authority(machine)
    renew(machine, "first")
    operator.restarts_with(guide.block(TLS_PAGE, "# /etc/dispatch/dispatch.toml"))
    if served_name(trusted) != "first":
        fail("another certificate is served")
    listen = guide.command(TLS_PAGE, "dispatch listen", HOST="localhost").split()[4:]
    with operator.driver("--accept", "127.0.0.1", *listen) as driver, connect() as device:
        talk(driver, device, "through TLS")
        health = guide.command(TLS_PAGE, "dispatch -c", HOST="localhost")
        machine.run(*health.split(), SSL_CERT_FILE="/etc/dispatch/ca.pem")
        ok(f"TLS: a driver has joined by wss ({' '.join(listen)}), the health check by https")
        renew(machine, "renewed")
        eventually("the renewed certificate is served", lambda: served_name(trusted) == "renewed")
        talk(driver, device, "after the renewal")
        if operator.fetch("/api/dispatch/v1/drivers")["total"] != 1:
            fail("the session is gone")
    ok("TLS: the guide's hook has the renewed certificate served, and the session has stayed")
