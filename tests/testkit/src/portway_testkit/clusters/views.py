"""Waiting until a replica's view of the store shows what the store has."""

from portway_registry.store.contract import Store
from portway_registry.store.mirror import Mirror


async def settle(store: Store, *mirrors: Mirror) -> None:
    """Wait until each mirror shows every entry below its prefix as the store has it now, and no other."""
    for mirror in mirrors:
        listed = {entry.key for entry in (await store.list(mirror.prefix)).entries}
        for key in listed | set(mirror.entries):
            await mirror.caught_up(key)
