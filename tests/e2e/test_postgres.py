"""PostgreSQL behind a tunnel: psql and pgbench through its raw port."""

import os
import random
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import portway
import pytest
from portway_lab.cluster.local_servers import ROLE, start_postgres
from portway_lab.cluster.processes import Processes
from portway_testkit.page_blocks import haproxy_file, runnable
from portway_testkit.processes.ports import LOOPBACK, free_port, wait_listening
from portway_testkit.processes.running_program import needed

PATIENCE = 45.0

pytestmark = [pytest.mark.usefixtures("client_environment"), pytest.mark.timeout(180)]


@dataclass(frozen=True, slots=True)
class Database:
    """A server with one role that needs no password."""

    port: int

    def run(self, program: str, tunnel: portway.Tunnel, *arguments: str, message: bytes = b"") -> bytes:
        """What a PostgreSQL client prints that is sent through the tunnel."""
        host, port = tunnel.tcp_socket
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PGHOST": host,
            "PGPORT": str(port),
            "PGUSER": ROLE,
            "PGDATABASE": "postgres",
            "PGCONNECT_TIMEOUT": "10",
            "PGPASSFILE": os.devnull,
            "PGSYSCONFDIR": os.devnull,
        }
        done = subprocess.run(
            [needed(program), *arguments],
            input=message,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    # Two folders: logs and process ids are ours, the data is the server's.
    with (
        tempfile.TemporaryDirectory(prefix="pw-") as logs,
        tempfile.TemporaryDirectory(prefix="pw-") as data,
        Processes(Path(logs)) as processes,
    ):
        yield Database(start_postgres(processes, Path(data)))


@pytest.fixture
def tunnel(database: Database) -> Iterator[portway.Tunnel]:
    with portway.forward(database.port, unencrypted=True) as tunnel:
        yield tunnel


def test_psql_stores_and_reads_back(database: Database, tunnel: portway.Tunnel) -> None:
    """psql creates a table, copies 100,000 rows in from its standard input, and reads them back as they were."""
    numbers = random.Random(5)
    rows = b"".join(b"%d\t%s\n" % (key, numbers.randbytes(16).hex().encode()) for key in range(100_000))
    psql = ("psql", tunnel, "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1")
    database.run(*psql, "-c", "DROP TABLE IF EXISTS rows", "-c", "CREATE TABLE rows (key int PRIMARY KEY, value text)")
    database.run(*psql, "-c", "COPY rows FROM STDIN", message=rows)
    assert database.run(*psql, "-c", "COPY (SELECT * FROM rows ORDER BY key) TO STDOUT") == rows


def test_a_server_that_declines_encryption_is_reached_all_the_same(database: Database, tunnel: portway.Tunnel) -> None:
    """A client that asks for TLS first, as psql does by itself, gets the server's own answer to that."""
    with pytest.raises(AssertionError, match="server does not support SSL"):
        database.run("psql", tunnel, "-c", "SELECT 1", "sslmode=require")
    assert database.run("psql", tunnel, "-Atc", "SELECT 6 * 7", "sslmode=prefer") == b"42\n"


def test_haproxy_between_knows_the_visitor(database: Database) -> None:
    """As docs/balancers.md has it: what PROXY headers say decides who is rejected; psql notices nothing of it."""
    unwanted, port = "127.0.0.66", free_port()
    ours = {"127.0.0.1:8000": f"{LOOPBACK}:{port}", "127.0.0.1:5432": f"{LOOPBACK}:{database.port}"}
    block = runnable("balancers.md", "postgresql", ours | {"192.0.2.0/24": unwanted})

    def wants_tls(source: str) -> bytes:
        """The server's answer to a visitor from there that asks whether it speaks TLS."""
        with socket.create_connection(opened.tcp_socket, PATIENCE, source_address=(source, 0)) as visitor:
            try:
                visitor.sendall(bytes.fromhex("0000000804d2162f"))
                return visitor.recv(1)
            except ConnectionResetError:
                return b""

    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        file = Path(folder, "haproxy.cfg")
        file.write_text(haproxy_file(block))
        processes.start("haproxy", [needed("haproxy"), "-db", "-f", file])
        wait_listening(port, processes.check_alive)
        with portway.forward(port, unencrypted=True, proxy_protocol=True) as opened:
            assert wants_tls("127.0.0.67") == b"N"
            assert wants_tls(unwanted) == b""
            assert database.run("psql", opened, "-Atc", "SELECT 6 * 7") == b"42\n"


def test_pgbench_runs_its_transactions(database: Database, tunnel: portway.Tunnel) -> None:
    """Eight connections at once, each with 100 transactions of many round trips: none fails and the books balance."""
    database.run("pgbench", tunnel, "--initialize", "--quiet")
    report = database.run("pgbench", tunnel, "--client", "8", "--jobs", "2", "--transactions", "100").decode()
    assert "number of transactions actually processed: 800/800" in report
    assert "number of failed transactions: 0" in report
    sums = (
        f"(SELECT sum({what}) FROM pgbench_{table})" for what, table in (("abalance", "accounts"), ("delta", "history"))
    )
    assert database.run("psql", tunnel, "-Atc", f"SELECT {' = '.join(sums)}") == b"t\n"
    # A connection for each transaction: lanes are used again and again.
    reconnecting = ("--connect", "--select-only", "--client", "4", "--transactions", "25")
    report = database.run("pgbench", tunnel, *reconnecting).decode()
    assert "number of transactions actually processed: 100/100" in report
