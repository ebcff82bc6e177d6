"""A registry on the embedded store that is killed has lost nothing that it said was written."""

import subprocess
import sys
from pathlib import Path

from portway_registry.store.embedded import EmbeddedStore

ACKNOWLEDGED = 200  # writes before the kill

WRITER = """
import asyncio, itertools, sys
from pathlib import Path
from portway_registry.store.embedded import EmbeddedStore

async def main():
    store = EmbeddedStore(Path(sys.argv[1]), on_failure=print)
    lease = await store.grant_lease(60)
    print(lease, flush=True)
    async def write(worker):
        for number in itertools.count():
            await store.put(f"{worker}/{number}", b"token", lease=lease)
            print(f"{worker}/{number}", flush=True)
    await asyncio.gather(*map(write, range(4)))

asyncio.run(main())
"""


def write_and_be_killed(path: Path) -> tuple[int, list[str]]:
    """The lease and the keys that a process said were written before it was killed."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lease = int(writer.stdout.readline())
        acknowledged = [writer.stdout.readline().strip() for _ in range(ACKNOWLEDGED)]
        writer.kill()
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    return lease, acknowledged


async def test_every_acknowledged_write_outlives_sigkill(tmp_path: Path) -> None:
    """Whatever was acknowledged before SIGKILL is there when the file is opened again, its lease included."""
    path = tmp_path / "store.db"
    lease, acknowledged = write_and_be_killed(path)
    assert len(acknowledged) >= ACKNOWLEDGED
    store = EmbeddedStore(path, on_failure=print)
    found = {entry.key: entry for entry in (await store.list("")).entries}
    assert set(acknowledged) <= set(found)
    assert {(entry.value, entry.lease) for entry in found.values()} == {(b"token", lease)}
    await store.keep_lease(next(iter(found.values())).lease)
    await store.close()
