"""portway.exit_codes: one for each kind of error, as documented."""

from pathlib import Path

import pytest
from portway.cli import main
from portway.errors import (
    AuthError,
    ClockError,
    ConfigError,
    Error,
    InvalidError,
    QuotaError,
    RemoteError,
    TunnelLostError,
    UnreachableError,
)
from portway.exit_codes import exit_code

README = Path(__file__).resolve().parents[3] / "client" / "README.md"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RemoteError(), 1),
        (Error(), 1),
        (InvalidError(), 2),
        (ConfigError(), 3),
        (AuthError(), 4),
        (QuotaError(), 5),
        (UnreachableError("nobody"), 6),
        (TunnelLostError("https://a.test", AuthError()), 7),
        (ClockError(), 8),
    ],
)
def test_each_kind_of_error_has_a_code_of_its_own(error: Error, code: int) -> None:
    """Programs tell them apart by it."""
    assert exit_code(error) == code


def test_help_and_readme_say_the_same_of_every_code(capsys: pytest.CaptureFixture[str]) -> None:
    """`portway forward --help` ends with the README's table."""
    with pytest.raises(SystemExit) as ended:
        main(["forward", "--help"])
    assert ended.value.code == 0
    _, _, shown = capsys.readouterr().out.partition("exit codes:\n")
    listed = [text.strip().split("  ", 1) for text in shown.splitlines()]
    assert [int(code) for code, _ in listed] == [*range(9), 141]
    table = "".join(f"| {code} | {meaning} |\n" for code, meaning in listed)
    assert f"| exit code | meaning |\n|---|---|\n{table}\n" in README.read_text()
