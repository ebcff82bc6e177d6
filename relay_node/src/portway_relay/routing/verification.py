"""Checking the statements that decide where a label is, at their first use.

Here: the order, budgets, one check for all who wait for it. Not here: which statement is next and what follows from it
(routes.py), the thread that checks (statement_checks.py).
"""

import asyncio
from collections.abc import Callable

from portway_proto.wire.statements import Claim, read_presence
from portway_runtime.tasks import Tasks

from portway_relay.routing.heard import HeardPresence, Word
from portway_relay.routing.routes import Routes
from portway_relay.routing.senders import REGISTRY
from portway_relay.routing.statement_checks import StatementChecks


class Verification:
    """Settles what is known of a label."""

    def __init__(self, routes: Routes, checks: StatementChecks, *, on_failure: Callable[[BaseException], None]) -> None:
        self._routes = routes
        self._checks = checks
        self._tasks = Tasks("verification", on_failure)
        self._checking: dict[Word, asyncio.Future[bool]] = {}
        self._soon: set[str] = set()

    async def settle(self, label: str, *, above: Claim | None = None) -> None:
        """Check what matters of the label, within the budgets of those who sent it; then the routes know. May be
        cancelled. Without anything to check it returns without a turn of the loop.

        above: a claim that was checked; only claims of higher rank matter then.
        """
        passed_over: set[Word] = set()
        while (word := self._routes.unchecked(label, passed_over, above=above)) is not None:
            checking = self._checking.get(word) or self._check(word)
            if checking is None:
                passed_over.add(word)
                continue
            await asyncio.shield(checking)
            # A future that is done already is awaited without a turn of the loop, before its callbacks have run.
            self._checked(word, checking)
        self._routes.decide(label)

    def soon(self, label: str) -> None:
        """Settle it in the background: what was heard contests what is in use."""
        if label not in self._soon:
            self._soon.add(label)
            self._tasks.spawn(self.settle(label), name="settle a label").add_done_callback(
                lambda _: self._soon.discard(label)
            )

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._tasks.close()

    def _check(self, word: Word) -> "asyncio.Future[bool] | None":
        """Begin a check; None above the sender's budget. What a registry answers is bounded by what it is asked."""
        if word.sender != REGISTRY and self._checks.wait(word.sender, 1):
            return None
        checking = self._checks.check(word.signed(self._checks.cluster), word.sender)
        self._checking[word] = checking
        checking.add_done_callback(lambda checking: self._checked(word, checking))
        return checking

    def _checked(self, word: Word, checking: "asyncio.Future[bool]") -> None:
        """Take up a result, once."""
        if self._checking.pop(word, None) is None or checking.cancelled():
            return
        if checking.result():
            self._routes.checked(word, read_presence(word.encoded) if isinstance(word, HeardPresence) else None)
        else:
            self._routes.forged(word)
