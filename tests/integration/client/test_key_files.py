"""forward(key=FILE), `portway forward --key FILE` and PORTWAY_KEY: one URL, whenever a program is started.

Two programs with one file: the later one takes the URL over, and the earlier one ends with one clear error.
"""

import functools
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import portway
import pytest
from portway.engine import engine_thread as thread
from portway.engine.key_file import KeyFile
from portway_proto.wire.labels import label_of_key
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.visitors.recovery import label_of
from portway_testkit.waiting import PATIENCE

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment", "each_engine")]

Program = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def program(start_python: Program) -> Program:
    """A Python program, or with `-m portway` the command; warnings are errors."""
    return functools.partial(start_python, "-W", "error")


def url(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    text = process.stdout.readline().strip()
    assert text.startswith("https://"), process.communicate(timeout=PATIENCE)
    return text


def ended(process: "subprocess.Popen[str]", code: int) -> list[str]:
    """The lines of its standard error."""
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, errors
    return errors.splitlines()


def test_a_program_that_is_started_again_has_its_url(
    node: FakeNode, echo: Any, exchange: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its raw port's ticket; without the file it would have another one. The path may begin with ~."""
    monkeypatch.setenv("HOME", str(tmp_path))
    urls = set()
    for _ in range(2):
        with portway.forward(echo.port, key="~/.config/portway/api.key", unencrypted=True) as tunnel:
            urls.add(tunnel.url)
            assert exchange(node, tunnel.host, b"hello") == b"hello"
        node.wait(lambda: not node.tunnels)
        thread.stop_engine()
    assert len(urls) == 1
    path = tmp_path / ".config" / "portway" / "api.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert node.tickets_shown(label_of(tunnel)) == [b"", f"20001 {label_of(tunnel)}".encode()]
    with portway.forward(echo.port, key="") as other:
        assert other.url not in urls


def test_the_variable_is_for_one_tunnel(node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one without key= would have a URL by chance, so it is an error that says what to do."""
    path = tmp_path / "key"
    monkeypatch.setenv("PORTWAY_KEY", str(path))
    with portway.forward(8000) as tunnel:
        with pytest.raises(portway.InvalidError, match=f"port 8000 has the URL of the key file {path} already"):
            portway.forward(8001).__enter__()
        with portway.forward(8001, key="") as random, portway.forward(8002, key=tmp_path / "other") as other:
            assert len({tunnel.url, random.url, other.url}) == 3
    with portway.forward(8001) as later:
        assert later.url == tunnel.url


def test_the_later_of_two_programs_takes_over(program: Program, node: FakeNode, tmp_path: Path) -> None:
    """Each in turn; the earlier one is told in one line, and takes nothing back."""
    path = tmp_path / "key"
    programs = [program("-m", "portway", "forward", "8000", "--key", str(path))]
    first = url(programs[0])
    for _ in range(3):
        programs.append(program("-m", "portway", "forward", "8001", "--key", str(path)))
        assert url(programs[-1]) == first
        errors = ended(programs[-2], 7)
        [error] = [line for line in errors if line.startswith("portway: the tunnel to")]
        assert error == (
            f"portway: the tunnel to {first} is gone for good: another program that uses the same key file has this "
            "URL now: give each program a key file of its own"
        )
    assert len(node.epochs(label_in(path))) == 4
    assert node.count("bind refused") == 0
    programs[-1].send_signal(signal.SIGTERM)
    ended(programs[-1], 0)


def test_a_program_that_was_away_is_told_when_it_is_back(program: Program, node: FakeNode, tmp_path: Path) -> None:
    """It attaches again, is refused with the later program's claim, and ends; it does not outbid it."""
    path = tmp_path / "key"
    earlier = program("-m", "portway", "forward", "8000", "--key", str(path))
    first = url(earlier)
    earlier.send_signal(signal.SIGSTOP)
    node.resumes = False
    node.drop_connections()
    later = program("-m", "portway", "forward", "8001", "--key", str(path))
    assert url(later) == first
    earlier.send_signal(signal.SIGCONT)
    assert "has this URL now" in ended(earlier, 7)[-1]
    assert len(node.epochs(label_in(path))) == 2
    assert node.count("bind refused") == 1
    assert later.poll() is None


def test_a_forked_child_signs_with_a_key_of_its_own(program: Program, node: FakeNode) -> None:
    """One that its parent has used would take the parent's tunnels from their node."""
    process = program(
        "-c",
        "import os, portway\n"
        "with portway.forward(8000) as tunnel:\n"
        "    print(tunnel.url, flush=True)\n"
        "    if os.fork() == 0:\n"
        "        with portway.forward(8001) as tunnel:\n"
        "            print(tunnel.url, flush=True)\n"
        "            input()\n"
        "            os._exit(0)\n"
        "    os.wait()\n",
    )
    assert url(process) != url(process)
    assert len({session.key for session in node.sessions.values()}) == 2


@pytest.mark.parametrize("variable", [False, True])
def test_one_file_is_not_for_two_targets(program: Program, node: FakeNode, tmp_path: Path, variable: bool) -> None:
    """Wrong usage, before anything is opened or made; with --key '' each has a random URL."""
    path = tmp_path / "key"
    named = {"PORTWAY_KEY": str(path)} if variable else {}
    options = [] if variable else ["--key", str(path)]
    [error] = ended(program("-m", "portway", "forward", "8000", "8001", *options, **named), 2)
    assert "run portway forward once for each target" in error
    assert ("PORTWAY_KEY" in error) == variable
    assert not path.exists()
    both = program("-m", "portway", "forward", "8000", "8001", "--key", "", **named)
    assert url(both) != url(both)


def test_a_file_that_cannot_be_used_is_one_line(program: Program, tmp_path: Path) -> None:
    """Exit code 3, as for the other files."""
    path = tmp_path / "key"
    path.write_bytes(b"")
    path.chmod(0o644)
    [error] = ended(program("-m", "portway", "forward", "8000", "--key", str(path)), 3)
    assert error.endswith(f"chmod 600 {path}")


def label_in(path: Path) -> str:
    """The label of a key file."""
    return label_of_key(KeyFile(path).key.public)
