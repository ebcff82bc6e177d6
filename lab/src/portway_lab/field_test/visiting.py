"""Program: opens a page again and again as a browser that tries addresses side by side, and writes down each visit.

usage: visiting.py URL CA TEXT EVERY REPORT

Every EVERY seconds, until SIGTERM, a visit begins: the name is looked up anew, the second address is tried after 250 ms
without a connection, and it is given up after 30 s. A line is printed after the first visit. REPORT gets a line for
each visit as it ends: an object with `began` (seconds of the system's monotonic clock), `took`, `through` (the address
that it was connected to), `certificate` (its serial number) and `failure`, which is empty for a visit that got TEXT.
"""

import asyncio
import json
import signal
import ssl
import sys
import urllib.parse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TextIO

_NEXT_ADDRESS_AFTER: Final = 0.25
_GIVES_UP_AFTER: Final = 30.0


@dataclass(slots=True)
class Visit:
    """One line of the report."""

    began: float
    took: float = 0.0
    through: str = ""
    certificate: str = ""
    failure: str = ""


async def visit(seen: Visit, host: str, context: ssl.SSLContext, text: bytes) -> None:
    """One visit. Raises OSError, ssl.SSLError, TimeoutError, ValueError for another page."""
    async with asyncio.timeout(_GIVES_UP_AFTER):
        reader, writer = await asyncio.open_connection(
            host, 443, ssl=context, server_hostname=host, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER
        )
        try:
            seen.through = writer.get_extra_info("peername")[0]
            seen.certificate = writer.get_extra_info("peercert")["serialNumber"]
            writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            status = answer.split(b"\r\n", 1)[0]
            if b" 200 " not in status or not answer.endswith(text):
                raise ValueError(f"{status.decode('latin-1')} {answer[-60:]!r}")
        finally:
            writer.transport.abort()


async def visit_until_told(url: str, ca: str, text: str, every: float, report: TextIO) -> None:
    """Visit, until SIGTERM; returns once the last visit has ended."""
    host = urllib.parse.urlsplit(url).hostname or ""
    context = ssl.create_default_context(cafile=ca)
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)

    async def one(number: int) -> None:
        seen = Visit(loop.time())
        try:
            await visit(seen, host, context, text.encode())
        except (OSError, TimeoutError, ValueError) as error:
            seen.failure = f"{type(error).__name__}: {error}"
        seen.took = loop.time() - seen.began
        report.write(json.dumps(asdict(seen)) + "\n")
        if number == 0:
            print("visited", flush=True)

    begin, number = loop.time(), 0
    async with asyncio.TaskGroup() as visits:
        while not told.is_set():
            visits.create_task(one(number))
            number += 1
            try:
                async with asyncio.timeout_at(begin + number * every):
                    await told.wait()
            except TimeoutError:
                pass


def main() -> None:
    url, ca, text, every, file = sys.argv[1:]
    with Path(file).open("w") as report:
        asyncio.run(visit_until_told(url, ca, text, float(every), report))


if __name__ == "__main__":
    main()
