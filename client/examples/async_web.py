"""A web server in asyncio: a page that ticks, as server-sent events.

    python async_web.py

The first line of standard output is the address; `curl -N` prints the ticks as they arrive.
"""

import argparse
import asyncio
import signal
from asyncio import StreamReader, StreamWriter
from datetime import UTC, datetime

import portway

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"


async def tick(reader: StreamReader, writer: StreamWriter) -> None:
    """Answer any request with the time, once per second, until the visitor disconnects."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_HEAD)
        while not writer.is_closing():
            writer.write(f"data: {datetime.now(UTC):%H:%M:%S}\n\n".encode())
            await writer.drain()
            await asyncio.sleep(1)
    except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass
    finally:
        writer.close()


async def main() -> None:
    argparse.ArgumentParser(description="Put a ticking page on the Internet.").parse_args()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    server = await asyncio.start_server(tick, "127.0.0.1", 0)
    async with portway.forward(server.sockets[0].getsockname()[1]) as tunnel:
        print(tunnel.url, flush=True)
        await stopped.wait()
        server.close()


if __name__ == "__main__":
    asyncio.run(main())
