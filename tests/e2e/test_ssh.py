"""OpenSSH behind a tunnel: sessions and copies, through the raw port and through TLS."""

import getpass
import hashlib
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import portway
import pytest
from portway_lab.cluster.local_servers import SshServer, start_sshd
from portway_lab.cluster.portway import Cluster
from portway_lab.cluster.processes import Processes
from portway_testkit.processes.ports import LOOPBACK
from portway_testkit.processes.running_program import needed

PATIENCE = 40.0
LARGE = random.Random(4).randbytes(20_000_000)

pytestmark = [pytest.mark.usefixtures("client_environment"), pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def server() -> Iterator[SshServer]:
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        yield start_sshd(processes)


@pytest.fixture
def tunnel(server: SshServer) -> Iterator[portway.Tunnel]:
    with portway.forward(server.port, unencrypted=True) as tunnel:
        yield tunnel


def run(command: list[str], message: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=message, capture_output=True, timeout=PATIENCE, check=False)


def ssh(server: SshServer, tunnel: portway.Tunnel, *arguments: str) -> list[str]:
    host, port = tunnel.tcp_socket
    return [needed("ssh"), *server.options(), "-p", str(port), f"{getpass.getuser()}@{host}", *arguments]


def test_a_command_has_its_streams_and_its_exit_code(server: SshServer, tunnel: portway.Tunnel) -> None:
    """Standard input reaches a remote command with its end; output, errors and exit code come back whole."""
    done = run(ssh(server, tunnel, "sha256sum; echo to stderr >&2; exit 7"), LARGE)
    assert done.stdout.split() == [hashlib.sha256(LARGE).hexdigest().encode(), b"-"]
    assert (done.stderr.splitlines()[-1:], done.returncode) == ([b"to stderr"], 7)


def test_an_interactive_session_answers_line_by_line(server: SshServer, tunnel: portway.Tunnel) -> None:
    """A shell on a terminal answers each line before the next one is typed, and ends when told to."""
    command = ssh(server, tunnel, "-tt", "exec env -i PATH=/usr/bin:/bin /bin/sh")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as shell:
        try:
            assert shell.stdin is not None
            assert shell.stdout is not None
            for number in range(3):
                shell.stdin.write(f"echo answer $(({number} * 111))\n".encode())
                shell.stdin.flush()
                # The terminal echoes what was typed, and the prompt may stand before the answer.
                while not (line := shell.stdout.readline()).rstrip().endswith(f"answer {number * 111}".encode()):
                    assert line, "the session ended early"
            shell.stdin.write(b"exit 5\n")
            shell.stdin.flush()
            assert shell.wait(PATIENCE) == 5
        finally:
            shell.kill()


@pytest.mark.parametrize("protocol", [(), ("-O",)], ids=["sftp", "legacy"])
def test_scp_copies_in_both_directions(
    server: SshServer, tunnel: portway.Tunnel, tmp_path: Path, protocol: tuple[str, ...]
) -> None:
    """A large file arrives through the tunnel byte for byte, and comes back so."""
    here, there, back = tmp_path / "here", tmp_path / "there", tmp_path / "back"
    here.write_bytes(LARGE)
    host, port = tunnel.tcp_socket
    remote = f"{getpass.getuser()}@{host}:{there}"
    scp = [needed("scp"), *server.options(), *protocol, "-P", str(port)]
    for source, target in ((str(here), remote), (remote, str(back))):
        done = run([*scp, source, target])
        assert done.returncode == 0, done.stderr.decode()
    digest = hashlib.sha256(LARGE).hexdigest()
    assert [hashlib.sha256(copy.read_bytes()).hexdigest() for copy in (there, back)] == [digest, digest]


def test_a_session_through_the_tls_address(cluster: Cluster, server: SshServer) -> None:
    """sshd, which speaks first, is reached at the TLS address too, with a TLS client as ssh's ProxyCommand."""
    with portway.forward(server.port) as tunnel:
        host, port = tunnel.tls_socket
        proxy = (
            f"ProxyCommand={needed('openssl')} s_client -quiet -verify_quiet -verify_return_error "
            f"-CAfile {cluster.ca} -connect {LOOPBACK}:{port} -servername {host} -verify_hostname {host}"
        )
        command = [needed("ssh"), *server.options(proxy), f"{getpass.getuser()}@{host}", "sha256sum"]
        done = run(command, LARGE)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split() == [hashlib.sha256(LARGE).hexdigest().encode(), b"-"]
