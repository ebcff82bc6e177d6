"""Where this node looks for a registry: what its settings name, and what the registries themselves have said.

Here: that knowledge, the order, and a file of it, so that a node finds the registries of now after a restart too. Not
here: connecting (stream.py).
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from portway_runtime.address_scopes import is_loopback
from portway_runtime.endpoints import Endpoint, parse_endpoint
from portway_runtime.secret_files import replace_file

logger = logging.getLogger(__name__)

# A registry names fewer.
_MOST: Final = 64


class Registries:
    """The ports for nodes, one of which is in use."""

    def __init__(self, configured: Iterable[Endpoint], file: Path | None) -> None:
        """file: one address in each line; it may be missing, and a line that cannot be read is passed over. None: what
        is learned is not kept."""
        self._configured = tuple(configured)
        self._file = file
        self._learned = _readable(_lines(file))
        self._in_order: list[Endpoint] = []
        self._arrange()

    @property
    def current(self) -> Endpoint:
        """The one that is tried or used now."""
        return self._in_order[0]

    @property
    def known(self) -> tuple[Endpoint, ...]:
        """All of them, the current one first."""
        return tuple(self._in_order)

    def use(self, registry: Endpoint) -> None:
        """This one is used from now on; the one before is tried after all others."""
        self.turn()
        self._in_order = list(dict.fromkeys((registry, *self._in_order)))

    def turn(self) -> None:
        """The current one was lost, or not reached: the next one is tried, and that one after all others."""
        self._in_order.append(self._in_order.pop(0))

    def learn(self, addresses: Iterable[str]) -> None:
        """Take the list of a registry (host:port) in place of the one before; an empty one, of a registry that does not
        know, changes nothing."""
        learned = _readable(addresses)
        if not learned or learned == self._learned:
            return
        self._learned = learned
        self._arrange()
        if self._file is None:
            return
        try:
            replace_file(self._file, "".join(f"{one}\n" for one in learned).encode())
        except OSError as error:
            logger.warning(
                "where registries are is not kept", extra={"file": str(self._file), "reason": error.strerror}
            )

    def _arrange(self) -> None:
        """The one in use stays so, also when it is listed no more. Then this machine's own, and those that are known
        from both sides: of the others one side is out of date, and a registry that is gone may take seconds to fail."""
        agreed = [one for one in self._configured if one in self._learned or is_loopback(one.host)]
        known = dict.fromkeys((*self._in_order[:1], *agreed, *self._learned, *self._configured))
        self._in_order = list(known)


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        return file.read_text(errors="replace").split()
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("where registries are cannot be read", extra={"file": str(file), "reason": error.strerror})
        return []


def _readable(addresses: Iterable[str]) -> tuple[Endpoint, ...]:
    found: dict[Endpoint, None] = {}
    for address in addresses:
        try:
            found[parse_endpoint(address)] = None
        except ValueError as error:
            logger.warning("a registry's address is passed over", extra={"reason": str(error)})
    return tuple(found)[:_MOST]
