"""Making the parts that obtain certificates, by the settings. Imported only where an ACME server is set: the library
takes 9 MB, and a tenth of a second."""

from collections.abc import Callable
from dataclasses import dataclass

from portway_runtime.clocks import monotonic

from portway_registry.acme.account import Account
from portway_registry.acme.keeper import Keeper
from portway_registry.acme.operator_wishes import OperatorWishes
from portway_registry.acme.publisher import Publisher
from portway_registry.acme.server_settings import ServerSettings
from portway_registry.acme.turn import Turn
from portway_registry.acme.wrapping import WrappingKey
from portway_registry.config import Config
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.views import Views
from portway_registry.store.contract import Store


@dataclass(frozen=True, slots=True)
class Obtaining:
    """What obtains certificates. `run` does, for ever, whenever it is this replica's turn."""

    keeper: Keeper
    turn: Turn
    wishes: OperatorWishes

    async def run(self) -> None:
        await self.keeper.run(self.turn)


def make_obtaining(
    config: Config,
    settings: ServerSettings,
    store: Store,
    views: Views,
    publisher: Publisher,
    wrapping: WrappingKey,
    audit: Audit,
    now_ms: Callable[[], int],
    *,
    replica: str,
) -> Obtaining:
    """Nothing is started."""
    assert config.domain is not None, "the settings were checked"
    keeper = Keeper(
        store,
        views.nodes,
        views.certificates,
        Account(store, wrapping, settings, now_ms),
        publisher,
        wrapping,
        now_ms,
        monotonic,
        directory=settings.directory,
        domain=config.domain,
        registry_name=config.called if config.tls_cert is None else None,
    )
    return Obtaining(
        keeper,
        Turn(store, keys.ACME_TURN, replica, lease_seconds=config.lease_seconds),
        OperatorWishes(store, views.certificates, keeper.wanted, audit, now_ms),
    )
