"""`portway-relay serve` with what cannot be used: exit code 2 and one line that says what is wrong and where."""

import datetime
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from portway_lab.cluster.processes import clean_environment
from portway_registry.pki.ca_folder import CaFolder
from portway_testkit.clusters.cluster import DOMAIN, LOOPBACK

PROGRAM = Path(sys.executable).with_name("portway-relay")
# A node that is refused is so before it asks anybody; the registry it names need not exist.
REGISTRY = f"{LOOPBACK}:1"
TIMEOUT = 30.0


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    authority = CaFolder.create(tmp_path / "pki")
    authority.add_node("fra-1")
    authority.add_region("fra", DOMAIN)
    authority.add_region("iad", DOMAIN)
    return authority.folder


@pytest.fixture
def refusal(pki: Path) -> Callable[..., str]:
    """What `portway-relay serve` says to these settings in place of, or beside, good ones."""
    good = {
        "name": "fra-1",
        "region": "fra",
        "domain": DOMAIN,
        "listen": f"{LOOPBACK}:0",
        "registry": REGISTRY,
        "cluster_ca": pki / "ca.crt",
        "cert": pki / "node-fra-1.crt",
        "key": pki / "node-fra-1.key",
        "tls_cert": pki / "region-fra.crt",
        "tls_key": pki / "region-fra.key",
    }

    def run(**settings: object) -> str:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in {**good, **settings}.items()]
        done = subprocess.run(
            [PROGRAM, "serve", *flags],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env=clean_environment(),
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        message, _, rest = done.stderr.partition("\n")
        assert rest == ""
        # Once the settings are known it is a line of the log.
        assert re.match(r"(\S+ \S+ CRITICAL portway_runtime\.run: )?portway-relay: ", message)
        return message

    return run


def issued(folder: Path, *names: str, expired_days: int) -> dict[str, Path]:
    """A certificate that ended so many days ago (below 0: will end), as the settings that name it."""
    ended = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=expired_days)
    leaf = trustme.CA().issue_cert(*names, not_before=ended - datetime.timedelta(days=30), not_after=ended)
    leaf.cert_chain_pems[0].write_to_path(folder / "made.crt")
    leaf.private_key_pem.write_to_path(folder / "made.key")
    return {"tls_cert": folder / "made.crt", "tls_key": folder / "made.key"}


def test_a_key_of_another_certificate(refusal: Callable[..., str], pki: Path) -> None:
    """Both files are named."""
    message = refusal(tls_key=pki / "region-iad.key")
    assert f"{pki / 'region-iad.key'} is not the key of {pki / 'region-fra.crt'}" in message
    assert "is not the key of" in refusal(key=pki / "region-fra.key")


def test_an_expired_certificate(refusal: Callable[..., str], tmp_path: Path) -> None:
    """It says since when."""
    message = refusal(**issued(tmp_path, f"*.fra.{DOMAIN}", expired_days=3))
    assert f"{tmp_path / 'made.crt'} expired on " in message
    assert message.endswith("put a new one in its place")


def test_a_certificate_of_the_future(refusal: Callable[..., str], tmp_path: Path) -> None:
    """It points at the clock."""
    message = refusal(**issued(tmp_path, f"*.fra.{DOMAIN}", expired_days=-100))
    assert "is valid from" in message
    assert "clock" in message


def test_a_certificate_for_names_of_another_domain(refusal: Callable[..., str]) -> None:
    """It says which names there are and which ones are possible. One for another region of the domain is accepted, as
    registries may have the one for the node's own."""
    message = refusal(domain="tun.example.com")
    assert f"*.fra.{DOMAIN}" in message
    assert "must be for *.REGION.tun.example.com" in message


def test_a_node_certificate_of_another_cluster(refusal: Callable[..., str], tmp_path: Path) -> None:
    """What the cluster's CA did not sign would be refused by every client."""
    other = CaFolder.create(tmp_path / "other")
    other.add_node("fra-1")
    message = refusal(cert=other.folder / "node-fra-1.crt", key=other.folder / "node-fra-1.key")
    assert "was not issued by the CA in" in message


def test_files_that_are_no_certificates(refusal: Callable[..., str], tmp_path: Path) -> None:
    """Missing, empty and nonsensical files are named."""
    assert "No such file" in refusal(tls_cert=tmp_path / "nowhere.crt")
    (tmp_path / "empty").write_bytes(b"")
    assert f"{tmp_path / 'empty'} holds no certificate" in refusal(cluster_ca=tmp_path / "empty")
    assert f"{tmp_path / 'empty'} holds no private key" in refusal(tls_key=tmp_path / "empty")


def test_an_unknown_key_in_the_file(refusal: Callable[..., str], tmp_path: Path) -> None:
    """A key that is no setting is refused, with the one that was probably meant."""
    (tmp_path / "node.toml").write_text('hello_tme = 5\nname = "fra-1"\n')
    message = refusal(config=tmp_path / "node.toml")
    assert str(tmp_path / "node.toml") in message
    assert "'hello_tme', which is not a setting: did you mean 'hello_time'?" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name = ", "is not TOML"),
        ("hello_time = -1", "hello_time in"),
        ("max_sessions = true", "max_sessions in"),
        ("[limits]\nhello_time = 1", "'limits', which is not a setting"),
    ],
)
def test_a_file_that_cannot_be_used(refusal: Callable[..., str], tmp_path: Path, content: str, says: str) -> None:
    """Its mistakes are told by the setting and the file they are in."""
    (tmp_path / "node.toml").write_text(content)
    message = refusal(config=tmp_path / "node.toml")
    assert says in message
    assert str(tmp_path / "node.toml") in message


def test_a_port_that_is_taken(refusal: Callable[..., str]) -> None:
    """The address is named; nothing was started."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        address = f"{LOOPBACK}:{taken.getsockname()[1]}"
        assert f"cannot listen on {address}" in refusal(listen=address)
        assert f"cannot listen on {address}" in refusal(admin_listen=address)
