"""portway_carrier.select: which carrier a process uses."""

import pytest
from portway_carrier.python import PythonCarrier
from portway_carrier.select import VARIABLE, make_carrier


@pytest.mark.parametrize("name", [None, "python"])
async def test_the_python_carrier_is_the_default(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    """And may be named."""
    monkeypatch.delenv(VARIABLE, raising=False)
    if name is not None:
        monkeypatch.setenv(VARIABLE, name)
    carrier = make_carrier()
    assert isinstance(carrier, PythonCarrier)
    await carrier.close()


@pytest.mark.parametrize("name", ["native", "steam", ""])
async def test_a_carrier_that_this_release_lacks_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With the variable, the name, and what to set."""
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(ValueError, match=f"no carrier '{name}': set PORTWAY_CARRIER to 'python'"):
        make_carrier()
