"""Keeping the certificates valid, by the replica whose turn it is: it does what is due, and stores what became of it.

Here: carrying out the steps that schedule.py decides, several zones at a time, and telling of failures. Not here: rules
and times (schedule.py), one order (ordering.py), whose turn it is (turn.py).
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec
from portway_proto.v1.types_pb2 import NodeInfo
from portway_runtime.backoff import jittered
from portway_runtime.certificates import CertifiedKey
from portway_runtime.clocks import Monotonic
from portway_runtime.printable import printable_line
from portway_runtime.rates import TokenBucket
from portway_runtime.tasks import Tasks

from portway_registry.acme.account import Account
from portway_registry.acme.held import purpose
from portway_registry.acme.ordering import obtain
from portway_registry.acme.publisher import Publisher
from portway_registry.acme.schedule import Due, Step, ask_again_ms, chosen_ms, is_replaced, next_step, pause_ms
from portway_registry.acme.turn import Turn
from portway_registry.acme.wrapping import WrappingKey
from portway_registry.acme.zones import wanted_zones
from portway_registry.errors import AcmeFailed, LeaseLost, StoreUnavailable
from portway_registry.state import keys
from portway_registry.state.domain_records import CertificateRecord
from portway_registry.state.gathered_changes import GatheredChanges
from portway_registry.state.records import decoder, encode
from portway_registry.state.views import View
from portway_registry.store.contract import Entry, Store
from portway_registry.store.update import Decision, update

logger = logging.getLogger(__name__)

_read = decoder(CertificateRecord)

# Zones that are worked on at once: a server that is slow with one holds up no new region.
_AT_ONCE: Final = 8
# Seconds. What changes is looked at when it does; this is for the time of day, which may be set.
_LONGEST_WAIT: Final = 30.0
# Seconds after an outage of the store.
_AGAIN_AFTER: Final = 2.0
_GATHERED: Final = 0.05  # seconds: nodes that come together are looked at together
# Let's Encrypt takes 300 orders of an account in 3 hours.
_ORDERS_PER_SECOND: Final = 250 / (3 * 3600)
_ORDERS_AT_ONCE: Final = 200
_CONTENDED: Final = "the certificate's record changed at each try to write it"
_ASK_AFTER_FAILURE_MS: Final = 6 * 3_600_000
# Seconds after a fault of this program itself that could not be stored.
_AFTER_FAULT: Final = 60.0
_LONGEST_FAULT: Final = 300  # characters


class Keeper:
    """Obtains and renews the certificates of a cluster while this replica has the turn."""

    def __init__(
        self,
        store: Store,
        nodes: View[NodeInfo],
        certificates: View[CertificateRecord],
        account: Account,
        publisher: Publisher,
        wrapping: WrappingKey,
        now_ms: Callable[[], int],
        clock: Monotonic,
        *,
        directory: str,
        domain: str,
        registry_name: str | None,
    ) -> None:
        """registry_name: the registry's own, None when it needs no certificate from here."""
        self._store = store
        self._nodes = nodes
        self._certificates = certificates
        self._account = account
        self._publisher = publisher
        self._wrapping = wrapping
        self._now_ms = now_ms
        self._directory = directory
        self._domain = domain
        self._registry_name = registry_name
        self._budget = TokenBucket(_ORDERS_PER_SECOND, _ORDERS_AT_ONCE, clock)
        self._changes = GatheredChanges(_GATHERED)
        self._busy: set[str] = set()
        self._postponed: dict[str, float] = {}  # zones after an outage of the store: not before this time of the loop
        self.outcomes: Counter[str] = Counter()  # of this replica: obtained, failed, revoked

    def wanted(self) -> dict[str, tuple[str, ...]]:
        """The names of each certificate that the cluster needs now, by zone."""
        regions = {node.region for node in self._nodes.values() if node.domain == self._domain}
        return wanted_zones(regions, self._domain, self._registry_name)

    async def run(self, turn: Turn) -> None:
        """Whenever it is this replica's turn, for ever."""
        unsubscribe = [view.subscribe(self._changes.notice) for view in (self._nodes, self._certificates)]
        try:
            await turn.run(self._keep)
        finally:
            for end in unsubscribe:
                end()

    async def _keep(self) -> None:
        tasks = Tasks("certificates")
        self._busy.clear()
        try:
            while True:
                await self._changes.wait(self._begin_due(tasks))
        finally:
            await tasks.close()

    def _begin_due(self, tasks: Tasks) -> float:
        """Begin what is due; returns the seconds until more may be."""
        wanted, now, wait = self.wanted(), self._now_ms(), _LONGEST_WAIT
        loop_now = asyncio.get_running_loop().time()
        due: list[tuple[Due, str]] = []
        for zone in wanted.keys() | self._certificates.items.keys():
            step = next_step(self._certificates.get(zone), wanted=zone in wanted, directory=self._directory)
            if step is None or zone in self._busy:
                continue
            left = max((step.at_ms - now) / 1000, self._postponed.get(zone, 0.0) - loop_now)
            if left > 0:
                wait = min(wait, left)
            else:
                due.append((step, zone))
        for step, zone in sorted(due, key=lambda one: (one[0].at_ms, one[1])):
            if len(self._busy) >= _AT_ONCE:
                break  # the next one begins when one has ended
            if step.step is Step.ORDER and (lacking := self._budget.take_or_wait(1)):
                wait = min(wait, lacking)
                continue
            self._busy.add(zone)
            tasks.spawn(self._do(step.step, zone, wanted.get(zone, ())), name=f"{step.step.value} {zone}")
        return wait

    async def _do(self, step: Step, zone: str, names: tuple[str, ...]) -> None:
        try:
            try:
                await self._carry_out(step, zone, names)
            except AcmeFailed as failed:
                await self._failed(step, zone, failed)
            except (StoreUnavailable, LeaseLost):
                raise
            except Exception as error:  # operators look where all failures are, and not at a traceback alone
                logger.exception("certificate not obtained", extra={"zone": zone})
                what = printable_line(f"{type(error).__name__}: {error}")[:_LONGEST_FAULT]
                await self._failed(step, zone, AcmeFailed(f"the registry itself failed: {what}"))
            self._postponed.pop(zone, None)
        except (StoreUnavailable, LeaseLost) as error:
            logger.warning("certificates wait for the store", extra={"zone": zone, "reason": str(error)})
            self._postponed[zone] = asyncio.get_running_loop().time() + _AGAIN_AFTER
        except Exception:
            logger.exception("certificate not obtained", extra={"zone": zone})
            self._postponed[zone] = asyncio.get_running_loop().time() + _AFTER_FAULT
        finally:
            self._busy.discard(zone)
            self._changes.notice()

    async def _carry_out(self, step: Step, zone: str, names: tuple[str, ...]) -> None:
        if step is Step.ORDER:
            await self._order(zone, names)
        elif step is Step.REVOKE:
            await self._revoke(zone)
        elif step is Step.ASK:
            await self._ask(zone)
        else:
            await self._forget(zone)

    async def _order(self, zone: str, names: tuple[str, ...]) -> None:
        begun, before = self._now_ms(), self._certificates.get(zone)
        logger.info("certificate ordered", extra={"zone": zone, "names": ", ".join(names)})
        replaces = before.chain if before is not None and before.directory == self._directory else b""
        connection = await self._account.connect()
        try:
            now = datetime.fromtimestamp(begun / 1000, UTC)
            made = await obtain(
                connection, self._publisher, names, domain=self._domain, replaces=replaces or None, now=now
            )
        finally:
            connection.close()
        await self._store_obtained(zone, lambda record: self._renewed(record, made, begun))
        self.outcomes["obtained"] += 1
        until = f"{made.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        logger.info("certificate obtained", extra={"zone": zone, "until": until})

    async def _store_obtained(self, zone: str, change: Callable[[CertificateRecord], CertificateRecord]) -> None:
        """Store a new certificate, whose order is not to be made again because the store is away for a moment: an
        outage that lasts costs this replica its turn."""
        while True:
            try:
                await self._update(zone, change)
            except StoreUnavailable as error:
                logger.warning("certificate not stored yet", extra={"zone": zone, "reason": str(error)})
                await asyncio.sleep(jittered(_AGAIN_AFTER))
            else:
                return

    def _renewed(self, record: CertificateRecord, made: CertifiedKey, begun: int) -> CertificateRecord:
        """A renewal that was ordered meanwhile is still to be done."""
        leaf, now = made.certificate, self._now_ms()
        return CertificateRecord(
            record.zone,
            made.chain,
            self._wrapping.wrap(made.key, purpose(record.zone)),
            self._directory,
            int(leaf.not_valid_before_utc.timestamp() * 1000),
            int(leaf.not_valid_after_utc.timestamp() * 1000),
            now,
            ask_at_ms=now,
            wanted_at_ms=record.wanted_at_ms if record.wanted_at_ms > begun else 0,
            revoking=record.revoking,
        )

    async def _revoke(self, zone: str) -> None:
        record = self._certificates.get(zone)
        if record is None or record.revoking is None:
            return
        revoking, replaced = record.revoking, is_replaced(record)
        connection = await self._account.connect()
        try:
            await connection.revoke(revoking.certificate, revoking.reason)
        finally:
            connection.close()

        def revoked(record: CertificateRecord) -> CertificateRecord:
            return _cleared(msgspec.structs.replace(record, revoking=None))

        await self._update(zone, revoked)
        self.outcomes["revoked"] += 1
        logger.info("certificate revoked", extra={"zone": zone, "replaced": replaced})

    async def _ask(self, zone: str) -> None:
        """Ask the server when it wants the certificate to be renewed. That it does not answer is no failure: two thirds
        of the life count then."""
        record = self._certificates.get(zone)
        if record is None:
            return
        window, again = None, self._now_ms()
        connection = await self._account.connect()
        try:
            window, again = await connection.renewal_window(record.chain)
        except AcmeFailed as failed:
            logger.info("no renewal information", extra={"zone": zone, "reason": str(failed)})
            again = self._now_ms() + _ASK_AFTER_FAILURE_MS
        finally:
            connection.close()
        asked = ask_again_ms(again, self._now_ms())

        def told(newest: CertificateRecord) -> CertificateRecord:
            if newest.chain != record.chain:
                return newest
            renew = newest.renew_at_ms if window is None else chosen_ms(window, record.chain)
            return msgspec.structs.replace(newest, renew_at_ms=renew, ask_at_ms=asked)

        await self._update(zone, told)

    async def _forget(self, zone: str) -> None:
        entry = await self._store.get(keys.certificate(zone))
        if entry is not None and await self._store.delete(entry.key, expected=entry.modified):
            logger.info("the certificate of a region without a node has ended", extra={"zone": zone})
        await self._certificates.caught_up(zone)

    async def _failed(self, step: Step, zone: str, failed: AcmeFailed) -> None:
        """Store the failure, for operators and for the next replica whose turn it is."""
        self.outcomes["failed"] += 1
        if failed.code == "accountDoesNotExist":
            await self._account.forget()
        now, spread = self._now_ms(), random.random()  # noqa: S311 - spreads load, guards nothing
        what = "revocation: " if step is Step.REVOKE else ""

        def after(record: CertificateRecord) -> CertificateRecord:
            failures = record.failures + 1
            pause = pause_ms(failures, int(failed.retry_after * 1000), spread)
            return msgspec.structs.replace(
                record, failures=failures, failure=f"{what}{failed}", failed_at_ms=now, retry_at_ms=now + pause
            )

        record = await self._update(zone, after)
        logger.error(
            "certificate not revoked" if step is Step.REVOKE else "certificate not obtained",
            extra={
                "zone": zone,
                "reason": str(failed),
                "failures": record.failures,
                "next_try_s": max(0, record.retry_at_ms - now) // 1000,
                "ends": _day(record.until_ms),
            },
        )

    async def _update(self, zone: str, change: Callable[[CertificateRecord], CertificateRecord]) -> CertificateRecord:
        """Store what `change` makes of the record as it is, and wait until the view shows it."""

        async def decide(entry: Entry | None) -> Decision[CertificateRecord]:
            record = CertificateRecord(zone) if entry is None else _decoded(zone, entry)
            changed = change(record)
            return Decision(changed, encode(changed))

        record = await update(self._store, keys.certificate(zone), decide, _CONTENDED)
        await self._certificates.caught_up(zone)
        return record


def _decoded(zone: str, entry: Entry) -> CertificateRecord:
    """A record that cannot be read is as good as none: views have named it in the log."""
    try:
        return _read(entry.value)
    except ValueError:
        return CertificateRecord(zone)


def _cleared(record: CertificateRecord) -> CertificateRecord:
    """Without what failed before."""
    return msgspec.structs.replace(record, failures=0, failure="", failed_at_ms=0, retry_at_ms=0)


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}" if ms else "there is none"
