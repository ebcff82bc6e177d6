"""Whether this machine's clock is right, by that of a web server.

Here: asking, and judging. A wrong clock shows as certificates that are not valid yet, or no more. The server is not
verified, because a certificate cannot be by a wrong clock; what it says changes nothing but what is told.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import aiohttp

_ANSWERED_WITHIN: Final = 5.0
# Certificates are backdated by an hour and grants have 15 minutes of leeway; a clock that is kept right is within
# seconds.
_TOLERATED: Final = timedelta(minutes=1)


def judge_clock(ahead: timedelta) -> str:
    """What is wrong with a clock that is so far ahead, or behind; "" for nothing."""
    if abs(ahead) <= _TOLERATED:
        return ""
    seconds = int(abs(ahead).total_seconds())
    shown = f"{seconds // 86_400} days" if seconds >= 2 * 86_400 else f"{seconds} s"
    way = "ahead" if ahead > timedelta(0) else "behind"
    return (
        f"this machine's clock is {shown} {way}, so that certificates seem not to be valid: set it right, and have it "
        "kept so (Debian: apt-get install systemd-timesyncd)"
    )


async def clock_ahead(url: str, now: Callable[[], datetime]) -> timedelta | None:
    """How far this machine's clock is ahead of that of the server of a URL; None if it does not say."""
    limit = aiohttp.ClientTimeout(total=_ANSWERED_WITHIN)
    try:
        async with aiohttp.ClientSession(timeout=limit) as session, session.head(url, ssl=False) as answer:
            return now() - parsedate_to_datetime(answer.headers["Date"])
    except (aiohttp.ClientError, OSError, KeyError, ValueError, TypeError):
        return None
