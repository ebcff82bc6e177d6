"""Listening sockets: where they are opened, what is said of an address that cannot be listened on, and who waits."""

import errno
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest
from portway_runtime import listening
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError
from portway_runtime.listening import endpoint_of, handshakes_in_progress, open_sockets, open_with_datagrams, queued
from portway_testkit.processes.ports import free_port
from portway_testkit.waiting import eventually


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        (("192.0.2.7", 80), Endpoint("192.0.2.7", 80)),
        (("::ffff:192.0.2.7", 80, 0, 0), Endpoint("192.0.2.7", 80)),
        (("2001:db8::1", 80, 0, 0), Endpoint("2001:db8::1", 80)),
        (("fe80::1%eth0", 80, 0, 2), Endpoint("fe80::1", 80)),
        (("::ffff:0:0:1", 80, 0, 0), Endpoint("::ffff:0:0:1", 80)),
    ],
)
def test_a_peer_is_told_by_the_address_it_has(name: tuple[object, ...], peer: Endpoint) -> None:
    """Mapped addresses are IPv4 ones; scopes are no part of an address."""
    assert endpoint_of(name) == peer


def _resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    def getaddrinfo(host: str, port: int, **hints: object) -> list[tuple[object, ...]]:
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in found], socket.SOCK_STREAM, 6, "", (found, port)) for found in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def _ports(sockets: list[socket.socket]) -> list[tuple[str, int]]:
    names = [sock.getsockname()[:2] for sock in sockets]
    for sock in sockets:
        assert sock.gettimeout() == 0
        sock.close()
    return names


def test_a_name_is_listened_on_at_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Port 0 becomes one port, the same on each address, each of them once."""
    _resolve_to(monkeypatch, "127.0.0.1", "::1", "127.0.0.1")
    names = _ports(open_sockets(Endpoint("relay.example.com", 0)))
    assert [host for host, _ in names] == ["127.0.0.1", "::1"]
    assert len({port for _, port in names}) == 1
    assert names[0][1] != 0


def test_a_port_that_is_taken_on_one_address_is_tried_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A free port of the first address that somebody holds on the second is given up for another."""
    _resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    opened: list[tuple[str, int]] = []
    really_open = listening._open

    def open_once_in_vain(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        opened.append((host, port))
        if len(opened) == 2:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return really_open(family, host, port)

    monkeypatch.setattr(listening, "_open", open_once_in_vain)
    names = _ports(open_sockets(Endpoint("relay.example.com", 0)))
    assert [host for host, _ in opened] == ["127.0.0.1", "127.0.0.2"] * 2
    assert opened[2] == ("127.0.0.1", 0)
    assert names == [("127.0.0.1", names[0][1]), ("127.0.0.2", names[0][1])]


def test_a_port_that_is_never_free_everywhere_ends_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries for one port on every address are bounded, and leave no socket."""
    _resolve_to(monkeypatch, "127.0.0.1", "127.0.0.2")
    really_open = listening._open
    tries: list[str] = []

    def open_first_alone(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
        tries.append(host)
        if host == "127.0.0.2":
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return really_open(family, host, port)

    monkeypatch.setattr(listening, "_open", open_first_alone)
    with pytest.raises(ListenError, match=r"cannot listen on relay\.example\.com:0: Address already in use"):
        open_sockets(Endpoint("relay.example.com", 0))
    assert tries == ["127.0.0.1", "127.0.0.2"] * 16


def test_an_address_that_is_nobodys_here_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another port cannot mend is told at the first try."""
    _resolve_to(monkeypatch, "127.0.0.1", "192.0.2.1")
    with pytest.raises(ListenError, match=r"cannot listen on relay\.example\.com:0: Cannot assign"):
        open_sockets(Endpoint("relay.example.com", 0))


def test_a_port_that_is_taken_is_named() -> None:
    """The error says which address, what is wrong with it, and that another port could be had."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use") as caught:
            open_sockets(Endpoint("127.0.0.1", port))
    assert caught.value.port_taken


def test_an_address_of_another_machine_is_named() -> None:
    """No port of an address that is not this machine's can be listened on."""
    with pytest.raises(ListenError, match=r"cannot listen on \[2001:db8::1\]:0: ") as caught:
        open_sockets(Endpoint("2001:db8::1", 0))
    assert not caught.value.port_taken


def test_a_name_that_nobody_knows_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver's answer is passed on."""

    def getaddrinfo(*arguments: object, **hints: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(ListenError, match=r"cannot listen on relay\.example:443: Name or service not known"):
        open_sockets(Endpoint("relay.example", 443))


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example", ".example"])
def test_what_can_be_no_name_is_a_listen_error_too(host: str) -> None:
    """A host that cannot even be asked for is told like one that nobody knows."""
    with pytest.raises(ListenError, match="not a host name"):
        open_sockets(Endpoint(host, 0))


@pytest.mark.parametrize("host", ["", "::"])
def test_every_address_is_one_socket_for_both_families(host: str) -> None:
    """IPv4 peers come as mapped addresses; `endpoint_of` gives their own."""
    [listener] = open_sockets(Endpoint(host, 0))
    with listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as peer:
        listener.setblocking(True)
        accepted, name = listener.accept()
        accepted.close()
        assert endpoint_of(name) == endpoint_of(peer.getsockname())


def test_a_machine_without_ipv6_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one socket cannot serve both families."""
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    [(host, _)] = _ports(open_sockets(Endpoint("", 0)))
    assert host == "0.0.0.0"


def test_one_ipv6_address_is_ipv6_alone() -> None:
    """The port stays free for a socket on IPv4."""
    [listener] = open_sockets(Endpoint("::1", 0))
    with listener:
        assert listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1


def test_the_kernel_says_how_many_wait(opened: tuple[list[socket.socket], tuple[str, int]], taken: ExitStack) -> None:
    """Those whose handshake is over, until they are accepted."""
    ((listening, *_), address) = opened
    assert queued(listening) == 0
    for _ in range(3):
        taken.enter_context(socket.create_connection(address))
    eventually(lambda: queued(listening) == 3)
    listening.accept()[0].close()
    assert queued(listening) == 2


def test_handshakes_are_counted_by_port() -> None:
    """An established connection is none."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()):
        eventually(lambda: not handshakes_in_progress({listening.getsockname()[1]}))


def test_what_the_system_does_not_say_counts_as_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container may have no /proc; then they are waited for until the limit."""
    monkeypatch.setattr(listening, "_TABLES", (tmp_path / "absent",))
    assert handshakes_in_progress({443})


def test_a_handshake_in_progress_is_found_in_either_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its line has the port in hexadecimal figures, behind an address of 4 or 16 bytes, and the state SYN_RECV."""
    head = "  sl  local_address rem_address   st tx_queue rx_queue\n"
    old, new = tmp_path / "tcp", tmp_path / "tcp6"
    monkeypatch.setattr(listening, "_TABLES", (old, new))
    old.write_text(f"{head}   0: 0100007F:01BB 0200007F:D431 03 00000000:00000000\n")
    new.write_text(f"{head}   0: {'0' * 31}1:1F90 {'0' * 31}1:D431 03 00000000:00000000\n")
    assert handshakes_in_progress({443})
    assert handshakes_in_progress({8080, 1})
    assert not handshakes_in_progress({444})


def test_a_handshake_is_found_wherever_it_stands_in_a_long_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is read in pieces, which end in the middle of a line."""
    table = tmp_path / "tcp"
    monkeypatch.setattr(listening, "_TABLES", (table,))
    other, wanted = (f"   0: 0100007F:01BB 0200007F:D431 {state} 00000000:00000000\n" for state in ("01", "03"))
    fitting = listening._CHUNK // len(other)
    for before in range(fitting - 2, fitting + 2):
        table.write_text(other * before + wanted + other * 10)
        assert handshakes_in_progress({443})
    table.write_text(other * (fitting + 2))
    assert not handshakes_in_progress({443})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "", "0.0.0.0"])
def test_datagrams_come_to_the_same_addresses_and_ports(host: str) -> None:
    """As DNS needs it: an answer that is too long comes over TCP."""
    listening_at, datagrams = open_with_datagrams(Endpoint(host, 0))
    with ExitStack() as held:
        for sock in (*listening_at, *datagrams):
            held.enter_context(sock)
        assert [sock.getsockname() for sock in listening_at] == [sock.getsockname() for sock in datagrams]
        assert {sock.type for sock in datagrams} == {socket.SOCK_DGRAM}
        to = "::1" if host in ("", "::1") else "127.0.0.1"
        with socket.socket(datagrams[0].family, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", (to, datagrams[0].getsockname()[1]))
            datagrams[0].setblocking(True)
            assert datagrams[0].recv(10) == b"hello"


def test_a_port_whose_datagrams_are_somebody_elses_is_tried_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Port 0 becomes a port of TCP, which another process may hold for UDP; one that was named is an error."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        port = free_port()  # of TCP
        taken.bind(("127.0.0.1", port))
        with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1:{port}") as caught:
            open_with_datagrams(Endpoint("127.0.0.1", port))
        assert caught.value.port_taken
        tried: list[int] = []
        really_open = listening.open_sockets

        def first_the_taken_one(endpoint: Endpoint) -> list[socket.socket]:
            tried.append(port if not tried else 0)
            return really_open(Endpoint(endpoint.host, tried[-1]))

        monkeypatch.setattr(listening, "open_sockets", first_the_taken_one)
        opened = open_with_datagrams(Endpoint("127.0.0.1", 0))
        assert len(tried) == 2
        for sock in (*opened[0], *opened[1]):
            sock.close()
