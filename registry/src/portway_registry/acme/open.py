"""Making the parts of ACME, by the settings; their order of start.

Here: composition alone.
"""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass

from portway_runtime.certificates import parse_certificates
from portway_runtime.clocks import UtcNow, monotonic
from portway_runtime.errors import CertificateError

from portway_registry.acme.account import Account
from portway_registry.acme.held import HeldCertificates
from portway_registry.acme.keeper import Keeper
from portway_registry.acme.operator_wishes import OperatorWishes
from portway_registry.acme.ordering import Challenges
from portway_registry.acme.server_calls import ServerSettings
from portway_registry.acme.turn import Turn
from portway_registry.acme.wrapping import WrappingKey, open_wrapping_key
from portway_registry.config import Config
from portway_registry.errors import ConfigError
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


def server_settings(config: Config) -> ServerSettings | None:
    """The ACME server of the settings; None without one. Reads its files. Raises ConfigError, also for other settings
    that do not fit it."""
    config.check_acme()
    if config.acme_directory is None:
        return None
    if config.acme_ca is not None:
        file = config.required_file("acme_ca")
        try:
            parse_certificates(file.read(), file)
        except CertificateError as error:
            raise ConfigError(str(error)) from error
    return ServerSettings(config.acme_directory, config.acme_ca, config.acme_email, _binding(config))


async def open_held(config: Config, store: Store, views: Views, now: UtcNow) -> tuple[WrappingKey, HeldCertificates]:
    """The certificates in the store, of which the views are filled, and the key that wraps theirs. Raises ConfigError,
    StoreUnavailable."""
    assert config.domain is not None, "the settings were checked"
    wrapping = await open_wrapping_key(config.wrapping_key_file(), store)
    return wrapping, HeldCertificates(views.certificates, wrapping, config.domain, now)


def make_obtaining(
    config: Config,
    settings: ServerSettings,
    store: Store,
    views: Views,
    challenges: Challenges,
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
        challenges,
        wrapping,
        now_ms,
        monotonic,
        directory=settings.directory,
        domain=config.domain,
        registry_name=config.own_name() if config.tls_cert is None else None,
    )
    return Obtaining(
        keeper,
        Turn(store, keys.ACME_TURN, replica, lease_seconds=config.lease_seconds),
        OperatorWishes(store, views.certificates, keeper.wanted, audit, now_ms),
    )


def _binding(config: Config) -> tuple[str, str] | None:
    if (config.acme_eab_key_id is None) != (config.acme_eab_key_file is None):
        raise ConfigError("--acme-eab-key-id and --acme-eab-key-file go together: give both or neither")
    if config.acme_eab_key_id is None:
        return None
    file = config.required_file("acme_eab_key_file")
    try:
        text = file.read().decode("ascii").strip()
        base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except CertificateError as error:
        raise ConfigError(str(error)) from error
    except (UnicodeDecodeError, binascii.Error) as error:
        raise ConfigError(f"{file} holds no key of an external account binding: it is one line of base64url") from error
    return config.acme_eab_key_id, text.rstrip("=")
