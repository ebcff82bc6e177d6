"""An etcd of several members on machines of the cluster, as operators run one: TLS, and certificates for clients.

Here: its certificates, its service, what registries are given. Not here: machines.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trustme

from portway_lab.cluster.network import Place
from portway_lab.field_test.machines import RunningMachine

_UNIT: Final = """\
[Unit]
Description=etcd
Before=portway-server.service

[Service]
Type=notify
ExecStart=/usr/local/bin/etcd --name={name} --data-dir=/var/lib/etcd \\
    --initial-cluster={cluster} --initial-cluster-state=new --initial-cluster-token=field-test \\
    --listen-peer-urls=https://{address}:2380 --initial-advertise-peer-urls=https://{address}:2380 \\
    --listen-client-urls=https://{address}:2379 --advertise-client-urls=https://{address}:2379 \\
    --trusted-ca-file=/etc/etcd/ca.crt --cert-file=/etc/etcd/own.crt --key-file=/etc/etcd/own.key \\
    --client-cert-auth --peer-client-cert-auth --peer-trusted-ca-file=/etc/etcd/ca.crt \\
    --peer-cert-file=/etc/etcd/own.crt --peer-key-file=/etc/etcd/own.key \\
    --heartbeat-interval=250 --election-timeout=2500 --auto-compaction-retention=1h
Restart=always
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""
_CERTIFICATES: Final = "/etc/portway/etcd-{}"


class Etcd:
    """The members, by their places."""

    def __init__(self, members: Sequence[Place], folder: Path) -> None:
        self._members = {one.name: one for one in members}
        self._folder = folder
        self._authority = trustme.CA()
        folder.mkdir()
        self._authority.cert_pem.write_to_path(folder / "ca.crt")

    @property
    def urls(self) -> str:
        """Where clients find it, as registries are told."""
        return ",".join(f"https://{one.address}:2379" for one in self._members.values())

    def put_into(self, machine: RunningMachine) -> None:
        """Make a machine a member, before it is started; any other is left as it is."""
        place = self._members.get(machine.place)
        if place is None:
            return
        cluster = ",".join(f"{one.name}=https://{one.address}:2380" for one in self._members.values())
        unit = "/etc/systemd/system/etcd.service"
        machine.put_text(unit, _UNIT.format(name=place.name, address=place.address, cluster=cluster))
        machine.link("/etc/systemd/system/multi-user.target.wants/etcd.service", unit)
        for name in ("etcd", "etcdctl"):
            machine.debian.put(Path(shutil.which(name) or ""), f"/usr/local/bin/{name}")
        certificate, key = self._issue(place.name, place.address)
        for file, name in ((self._folder / "ca.crt", "ca.crt"), (certificate, "own.crt"), (key, "own.key")):
            machine.debian.put(file, f"/etc/etcd/{name}")

    def bring_secrets(self, machine: RunningMachine) -> list[str]:
        """Bring what a registry there needs; the options that tell it so."""
        certificate, key = self._issue(f"registry-{machine.place}", f"{machine.place}.invalid")
        options = ["--etcd", self.urls]
        for option, file in (("ca", self._folder / "ca.crt"), ("cert", certificate), ("key", key)):
            machine.bring(file, _CERTIFICATES.format(option), owner="portway-registry")
            options += [f"--etcd-{option}", _CERTIFICATES.format(option)]
        return options

    def _issue(self, name: str, identity: str) -> tuple[Path, Path]:
        leaf = self._authority.issue_cert(identity, common_name=name)
        certificate, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        leaf.cert_chain_pems[0].write_to_path(certificate)
        leaf.private_key_pem.write_to_path(key)
        return certificate, key
