"""A real ACME server for tests, pebble, and the DNS server that it asks, pebble-challtestsrv; both on loopback.

Here: the processes, their settings, and the publisher of TXT records that a registry is given. pebble is strict, and
refuses one nonce in five and reuses half of the authorizations on purpose. Not here: the registry.
"""

import json
import os
import ssl
import subprocess
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import trustme
from portway_registry.acme.server_calls import on_thread
from portway_registry.config import Config

from portway_testkit.clusters.registry import Pki
from portway_testkit.processes.ports import LOOPBACK, free_port, wait_listening
from portway_testkit.processes.running_program import needed

_ANSWER_SECONDS: Final = 10.0
_STOP_SECONDS: Final = 10.0


@dataclass
class TxtRecords:
    """The Publisher of a registry whose DNS is pebble-challtestsrv."""

    management: str
    published: list[tuple[str, str]] = field(default_factory=list)

    async def publish(self, name: str, value: str) -> None:
        await on_thread(lambda: _post(f"{self.management}/set-txt", {"host": f"{name}.", "value": value}))
        self.published.append((name, value))

    async def withdraw(self, name: str, value: str) -> None:
        """All values of the name: orders withdraw theirs together."""
        await on_thread(lambda: _post(f"{self.management}/clear-txt", {"host": f"{name}."}))


def write_settings(
    folder: Path,
    ca: Path,
    *,
    names: Sequence[str],
    listen: str,
    own: str,
    validity: int = 7_776_000,
    bindings: dict[str, str] | None = None,
) -> Path:
    """Write the settings of a pebble, and the certificate of its two ports, whose CA goes to `ca`; returns the file.

    names: those that it is called by. listen: where it is an ACME server; own: where it is asked about itself.
    validity: seconds for which certificates are valid. bindings: the external account bindings that it demands, HMAC
    keys by key id.
    """
    certificate, key = folder / "pebble.crt", folder / "pebble.key"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(ca)
    leaf = authority.issue_cert(*names)
    leaf.cert_chain_pems[0].write_to_path(certificate)
    leaf.private_key_pem.write_to_path(key)
    settings = {
        "listenAddress": listen,
        "managementListenAddress": own,
        "certificate": str(certificate),
        "privateKey": str(key),
        "httpPort": 5002,
        "tlsPort": 5001,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": bindings is not None,
        "externalAccountMACKeys": bindings or {},
        "domainBlocklist": ["blocked.example"],
        # Seconds that it asks clients to wait.
        "retryAfter": {"authz": 1, "order": 1},
        "keyAlgorithm": "ecdsa",
        "profiles": {"default": {"description": "the only one", "validityPeriod": validity}},
    }
    file = folder / "pebble.json"
    file.write_text(json.dumps({"pebble": settings}))
    return file


class Pebble:
    """`with Pebble(folder) as pebble:` runs both programs until the block ends.

    validity: seconds for which certificates are valid. bindings: the external account bindings that it demands, HMAC
    keys by key id. nonces_refused: percent. dns: the port of the DNS server on loopback that it asks, in place of
    pebble-challtestsrv.
    """

    def __init__(
        self,
        folder: Path,
        *,
        validity: int = 7_776_000,
        bindings: dict[str, str] | None = None,
        nonces_refused: int = 20,
        dns: int | None = None,
    ) -> None:
        self._folder = folder
        self._nonces_refused = nonces_refused
        self._asked = dns
        self._held = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._port, self._own_port, self._dns, self._dns_own = (free_port() for _ in range(4))
        self._validity = validity
        self._bindings = bindings
        self.directory = f"https://{LOOPBACK}:{self._port}/dir"
        self.ca = folder / "pebble-ca.crt"  # of its own certificate
        self.dns_management = f"http://{LOOPBACK}:{self._dns_own}"

    def __enter__(self) -> Self:
        programs = needed("pebble"), needed("pebble-challtestsrv")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._settings = write_settings(
            self._folder,
            self.ca,
            names=(LOOPBACK, "localhost"),
            listen=f"{LOOPBACK}:{self._port}",
            own=f"{LOOPBACK}:{self._own_port}",
            validity=self._validity,
            bindings=self._bindings,
        )
        self._pebble = programs[0]
        try:
            off = ("-doh", "", "-http01", "", "-https01", "", "-tlsalpn01", "")
            dns = ("-dnsserver", f"{LOOPBACK}:{self._dns}", "-management", f"{LOOPBACK}:{self._dns_own}")
            answerer = self._run([programs[1], *dns, *off])
            self._held.callback(_end, answerer)
            _wait_listening(self._dns_own, answerer)
            self.start()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._held.close()

    def start(self) -> None:
        """Begin to serve; of an earlier run it knows nothing."""
        asked = f"{LOOPBACK}:{self._asked or self._dns}"
        process = self._run([self._pebble, "-strict", "-config", str(self._settings), "-dnsserver", asked])
        self._process = process
        _wait_listening(self._port, process)
        _wait_listening(self._own_port, process)

    def stop(self) -> None:
        """End as a server that fails does."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)

    def config(self, pki: Pki, folder: Path, **more: Any) -> Config:
        """Settings of a registry that obtains the certificates of regions from here; its public port's is from files,
        unless `more` has None for these."""
        given = {
            "acme_directory": self.directory,
            "acme_ca": self.ca,
            "acme_key_file": folder / "acme.key",
            "domain": "tunnels.example",
        }
        return pki.config(folder, **given | more)

    def publisher(self) -> TxtRecords:
        """One that has its own DNS server answer."""
        return TxtRecords(self.dns_management)

    def break_dns(self, name: str) -> None:
        """Answer SERVFAIL for the name from now on."""
        _post(f"{self.dns_management}/set-servfail", {"host": f"{name}."})

    def mend_dns(self, name: str) -> None:
        _post(f"{self.dns_management}/clear-servfail", {"host": f"{name}."})

    def roots(self) -> bytes:
        """The CA of the certificates that it issues, PEM; another one after each start."""
        return self._get("/roots/0")

    def is_revoked(self, serial: int) -> bool:
        shown: dict[str, Any] = json.loads(self._get(f"/cert-status-by-serial/{serial:x}"))
        return bool(shown["Status"] == "Revoked")

    def suggest_renewal(self, certificate: bytes, start: str, end: str) -> None:
        """Answer this window (RFC 3339) to who asks when the certificate (PEM) should be renewed."""
        answer = json.dumps({"suggestedWindow": {"start": start, "end": end}})
        body = {"Certificate": certificate.decode(), "ARIResponse": answer}
        _post(f"https://{LOOPBACK}:{self._own_port}/set-renewal-info/", body, self._tls())

    def log(self) -> str:
        """What both programs have said."""
        return (self._folder / "pebble.log").read_text(errors="replace")

    def _get(self, path: str) -> bytes:
        url = f"https://{LOOPBACK}:{self._own_port}{path}"
        with urllib.request.urlopen(url, timeout=_ANSWER_SECONDS, context=self._tls()) as answer:
            read: bytes = answer.read()
        return read

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PEBBLE_VA_NOSLEEP": "1",
            "PEBBLE_WFE_NONCEREJECT": str(self._nonces_refused),
            "PEBBLE_AUTHZREUSE": "50",
        }
        with (self._folder / "pebble.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)


def _wait_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    def check_alive() -> None:
        assert process.poll() is None, f"{process.args!r} has ended"

    wait_listening(port, check_alive)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(_STOP_SECONDS)


def _post(url: str, body: dict[str, str], tls: ssl.SSLContext | None = None) -> None:
    request = urllib.request.Request(url, json.dumps(body).encode(), method="POST")
    urllib.request.urlopen(request, timeout=_ANSWER_SECONDS, context=tls).close()
