"""Setting a machine up: looking at it, deciding, writing.

Here: the order. Not here: each step (machine.py, plan.py, settings_files.py, writing.py).
"""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress

from portway_geo.database import open_locator
from portway_geo.position import Position
from portway_runtime.address_scopes import Scope, scope_of

from portway_server import machine
from portway_server.certificates import demand_region, of_registry, of_relay
from portway_server.plan import Found, Plan, plan
from portway_server.settings_files import (
    REGISTRY,
    REGISTRY_USER,
    RELAY,
    RELAY_USER,
    SERVER,
    registry_file,
    registry_state,
    relay_file,
    relay_state,
    server_file,
    server_state,
)
from portway_server.wishes import Wishes
from portway_server.writing import File, add_users, demand_absent, demand_root, make_folder, write


def planned(wishes: Wishes) -> Plan:
    """Look at this machine, and decide. Raises SetupRefused."""
    addresses = machine.own_addresses()
    return plan(
        wishes,
        Found(
            tuple(addresses),
            tuple(address for address in wishes.addresses if _is_own(address)),
            machine.has_ipv6(),
            _position(wishes.addresses or addresses),
            machine.distinct_suffix(),
            tuple(machine.listeners()),
        ),
    )


def files_of(made: Plan, registries: Sequence[str]) -> list[File]:
    """The settings of the machine's programs. `registries`: mesh addresses. Raises SetupRefused for certificates from
    elsewhere that are not for the names that they have to be for."""
    wishes = made.wishes
    users = wishes.separate_users
    files = []
    if wishes.certificates:
        demand_region(wishes.certificates, wishes.zone)
    if wishes.registry:
        certificate = of_registry(wishes.certificates, wishes.domain) if wishes.certificates else None
        files.append(
            File(wishes.config_dir / REGISTRY, registry_file(made, certificate), REGISTRY_USER if users else None)
        )
    files.append(
        File(
            wishes.config_dir / RELAY,
            relay_file(made, registries, of_relay(wishes.certificates, wishes.domain)),
            RELAY_USER if users else None,
        )
    )
    files.append(File(wishes.config_dir / SERVER, server_file(made, registry_address(wishes)), None))
    return files


def registry_address(wishes: Wishes) -> str:
    """What clients and operators reach the registry by: its name, through any node's public port."""
    port = wishes.ports.public
    return wishes.domain if port == 443 else f"{wishes.domain}:{port}"


def demand_writable(made: Plan, *, overwrite: bool) -> None:
    """Raise SetupRefused where the machine cannot be set up, or is already."""
    wishes = made.wishes
    if wishes.separate_users:
        demand_root(wishes.config_dir)
    if not overwrite:
        names = (REGISTRY, RELAY, SERVER) if wishes.registry else (RELAY, SERVER)
        demand_absent([File(wishes.config_dir / name, "", None) for name in names])


def make_folders(made: Plan) -> list[str]:
    """Make users and folders; the users that were missing. Raises CannotWrite."""
    wishes = made.wishes
    users: list[str | None] = [REGISTRY_USER, RELAY_USER] if wishes.separate_users else [None, None]
    wanted = [user for user, here in zip(users, (wishes.registry, True), strict=True) if user and here]
    added = add_users(wanted)
    if wishes.registry:
        make_folder(registry_state(made), users[0])
    make_folder(relay_state(made), users[1])
    make_folder(server_state(made), None)
    return added


def set_up(made: Plan, registries: Sequence[str], *, overwrite: bool) -> tuple[list[File], list[str]]:
    """Write everything; the files, and the users that were missing. Raises SetupRefused and CannotWrite."""
    demand_writable(made, overwrite=overwrite)
    files = files_of(made, registries)
    added = make_folders(made)
    write(files)
    return files, added


def _is_own(address: str) -> bool:
    """Whether this machine can listen at an address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return True
    return False


def _position(addresses: Sequence[str]) -> Position | None:
    """Where the first global address is that the embedded table knows."""

    async def look() -> Position | None:
        locator = open_locator(None)
        try:
            await locator.load()
            found = (locator.locate(one) for one in addresses if scope_of(one) is Scope.GLOBAL)
            return next((one for one in found if one is not None), None)
        finally:
            locator.close()

    with suppress(ValueError):  # an address that is none, which `plan` refuses
        if any(scope_of(one) is Scope.GLOBAL for one in addresses):
            return asyncio.run(look())
    return None
