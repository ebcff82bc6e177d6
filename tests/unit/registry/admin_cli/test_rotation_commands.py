"""The commands of docs/rotation.md are run as they are written, in their order.

Those about certificates from an ACME server are run in tests/integration/certificates/test_command.py, with one.
"""

import re
from pathlib import Path

from portway_testkit.clusters.admin_stage import Stage

_PAGE = Path(__file__).resolve().parents[4] / "docs" / "rotation.md"
_CONSOLE = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The arguments of each command that needs a registry alone."""
    lines = [line for block in _CONSOLE.findall(_PAGE.read_text()) for line in block.splitlines()]
    found = [line.removeprefix("$ portway-admin ").split() for line in lines]
    return [arguments for arguments in found if arguments[0] != "certificate"]


def test_the_commands_of_the_page_do_what_it_says(own: Stage) -> None:
    """ID is the key that signs, and the CA that is retiring."""
    done = []
    for arguments in commands():
        if arguments[0] == "ca":
            named = [one["id"] for one in own.ask("ca", "list")["authorities"] if one["state"] == "retiring"]
        else:
            named = [one["id"] for one in own.ask("grant-key", "list")["grant_keys"] if one["state"] == "signing"]
        if arguments[:2] == ["ca", "retire"]:
            own.until_unused(named[0])
        result = own.say(*(named[0] if argument == "ID" else argument for argument in arguments))
        assert result.exit_code == 0, (arguments, result.output)
        done.append(" ".join(arguments[:2]))
    assert done == [
        "grant-key list",
        "grant-key rotate",
        "grant-key retire",
        "front-key list",
        "front-key rotate",
        "front-key rotate",
        "ca rotate",
        "ca list",
        "ca retire",
    ]
    assert [one["state"] for one in own.ask("ca", "list")["authorities"]] == ["issuing"]
    assert "signing" in {one["state"] for one in own.ask("grant-key", "list")["grant_keys"]}
