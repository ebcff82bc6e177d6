"""Program: opens a page again and again as a browser that tries addresses side by side, and writes down each visit.

usage: visiting.py URL CA TEXT EVERY SECONDS REPORT

Every EVERY seconds, for SECONDS, a visit begins: the name is looked up anew, the second address is tried after 250 ms
without a connection, and it is given up after 30 s. A line is printed after the first visit. REPORT gets a JSON object:
lists of the visits' beginnings (seconds of the system's monotonic clock) and durations, and failures by number. What is
not TEXT is a failure.
"""

import asyncio
import json
import ssl
import sys
import urllib.parse
from pathlib import Path
from typing import Final

_NEXT_ADDRESS_AFTER: Final = 0.25
_GIVES_UP_AFTER: Final = 30.0


async def visit(host: str, context: ssl.SSLContext, text: bytes) -> None:
    """One visit. Raises OSError, ssl.SSLError, TimeoutError, ValueError for another page."""
    async with asyncio.timeout(_GIVES_UP_AFTER):
        reader, writer = await asyncio.open_connection(
            host, 443, ssl=context, server_hostname=host, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER
        )
        try:
            writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            status = answer.split(b"\r\n", 1)[0]
            if b" 200 " not in status or not answer.endswith(text):
                raise ValueError(f"{status.decode('latin-1')} {answer[-60:]!r}")
        finally:
            writer.transport.abort()


async def visits_of(url: str, ca: str, text: str, every: float, seconds: float) -> dict[str, object]:
    """What the report has."""
    host = urllib.parse.urlsplit(url).hostname or ""
    context = ssl.create_default_context(cafile=ca)
    loop = asyncio.get_running_loop()
    began: list[float] = []
    took: list[float] = []
    failures: dict[int, str] = {}

    async def one(number: int) -> None:
        try:
            await visit(host, context, text.encode())
        except (OSError, TimeoutError, ValueError) as error:
            failures[number] = f"{type(error).__name__}: {error}"
        took[number] = loop.time() - began[number]
        if number == 0:
            print("visited", flush=True)

    begin = loop.time()
    async with asyncio.TaskGroup() as visits:
        while loop.time() < begin + seconds:
            began.append(loop.time())
            took.append(0.0)
            visits.create_task(one(len(began) - 1))
            await asyncio.sleep(max(0.0, begin + len(began) * every - loop.time()))
    return {"began": began, "took": took, "failures": failures}


def main() -> None:
    url, ca, text, every, seconds, report = sys.argv[1:]
    told = asyncio.run(visits_of(url, ca, text, float(every), float(seconds)))
    Path(report).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
