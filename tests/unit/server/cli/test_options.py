"""Options that are given together, and what is said of those from which nothing would come."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from portway_server.cli.commands import commands

FROM_ELSEWHERE = ("--tls-cert", "fra.crt", "--tls-key", "fra.key")
JOIN = ("join", "tun.example.com", "--region", "iad")


def init(*words: str) -> tuple[str, ...]:
    return ("init", "--domain", "tun.example.com", "--region", "fra", *words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (init(*FROM_ELSEWHERE, "--email", "ops@example.com"), "--email is for certificates that the registry obtains"),
        (
            init(*FROM_ELSEWHERE, "--acme-directory", "https://ca.example/directory", "--email", "ops@example.com"),
            "leave --acme-directory, --email out to use those from elsewhere, or --tls-cert and --tls-key",
        ),
        (init(*FROM_ELSEWHERE, "--acme-key-file", "acme.key"), "--acme-key-file is for certificates that the registry"),
        (init("--email", "ops@example.com", "--etcd-ca", "ca.pem"), "--etcd-ca is for an etcd, and none is named"),
        ((*JOIN, "--email", "ops@example.com"), "--email is for a machine that runs a registry: give --registry"),
        ((*JOIN, *FROM_ELSEWHERE, "--acme-ca", "ca.pem"), "--acme-ca is for a machine that runs a registry"),
        ((*JOIN, "--etcd", "https://e1:2379"), "--etcd is for a machine that runs a registry: give --registry"),
    ],
)
def test_an_option_from_which_nothing_would_come_is_refused(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    """With what to do, before anything is written or an invitation is asked for."""
    folders = ("--config-dir", str(tmp_path / "etc"), "--state-dir", str(tmp_path / "var"), "--same-user")
    done = CliRunner().invoke(commands, [*words, *folders])
    assert done.exit_code == 1
    assert told in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []
