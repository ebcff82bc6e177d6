"""Following a page: what a page says is typed, and what it shows has to be printed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from portway_lab.handbook.pages import blocks
from portway_lab.handbook.session import NotAsThePageSays, Session

_URL = "https://abcdefghijklmnop.fra.localhost:4433"


@pytest.fixture
def follow(tmp_path: Path) -> Callable[[str], None]:
    def follow(text: str) -> None:
        page, folder = tmp_path / "page.md", tmp_path / "folder"
        page.write_text(text)
        folder.mkdir()
        with Session(folder, {"PATH": os.environ["PATH"]}, {"8000": 18000}) as session:
            session.follow(blocks(page))

    return follow


def _console(*lines: str) -> str:
    return "\n".join(["```console", *lines, "```", ""])


def test_commands_follow_each_other_in_one_shell(follow: Callable[[str], None]) -> None:
    """What one exports the next one has; a file of the page is there; a usual port is the one that there is."""
    follow(
        '```text title="file"\nport 8000\n```\n'
        + _console("$ export NAME=value", "$ echo $NAME \\", "    again", "value again", "$ cat file", "port 18000")
    )


def test_output_is_what_the_page_shows(follow: Callable[[str], None]) -> None:
    """In its order, with other lines between, and any text for an ellipsis."""
    follow(_console("$ printf 'one\\ntwo\\nthree\\n'", "one", "t…e"))


@pytest.mark.parametrize(
    "lines",
    [
        ("$ false",),
        ("$ echo one", "two"),
        ("$ printf 'one\\ntwo\\n'", "two", "one"),
        ("$ echo 'one more'", "one"),
        ("$ true &",),
    ],
    ids=["fails", "prints another line", "in another order", "prints more on the line", "does not stay"],
)
def test_a_page_that_is_wrong_is_seen(follow: Callable[[str], None], lines: tuple[str, ...]) -> None:
    """With its line."""
    with pytest.raises(NotAsThePageSays, match=r"page\.md:1: "):
        follow(_console(*lines))


def test_an_example_s_address_is_the_tunnel_s(follow: Callable[[str], None]) -> None:
    """That was opened last; without https as well, and a raw port."""
    raw = "tcp://127.0.0.1:23456"
    follow(
        _console(
            f"$ printf '{_URL}\\n{raw}\\n'; sleep 60 &",
            "https://k5zq2w7b3xav6mdy.fra.tun.example.com",
            "tcp://fra.tun.example.com:20123",
            "$ echo https://k5zq2w7b3xav6mdy.fra.tun.example.com/ k5zq2w7b3xav6mdy.fra.tun.example.com:443",
            f"{_URL}/ abcdefghijklmnop.fra.localhost:4433",
            "$ echo fra.tun.example.com 20123",
            "127.0.0.1 23456",
        )
    )


def test_what_stays_is_waited_for_and_ended(follow: Callable[[str], None], tmp_path: Path) -> None:
    """Until it listens, if the page shows nothing of it; and nothing of it is left."""
    server = 'python3 -c \'import os, socket, time; open("pid", "w").write(str(os.getpid())); '
    server += 's = socket.create_server(("127.0.0.1", 0)); time.sleep(60)\''
    follow("<!-- keeps running -->\n" + _console(f"$ {server}"))
    pid = int((tmp_path / "folder/pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_a_block_that_is_not_run_is_left_out(follow: Callable[[str], None]) -> None:
    """Its mark says why."""
    follow("<!-- not run: it fails; instead: scripts/test -->\n" + _console("$ false"))
