"""Program: how long forward() takes in a warm process. usage: forward_ready.py warm|second COUNT; prints {"ms": [...]}.

warm:   the process has had a tunnel before and has none now.
second: another tunnel of the process is open.
"""

import contextlib
import json
import sys
import time

import portway

_FIRST, _MEASURED = 8001, 8002  # nobody has to listen: forward() does not dial the local server


def main() -> None:
    kind, count = sys.argv[1], int(sys.argv[2])
    taken = []
    with contextlib.ExitStack() as stack:
        if kind == "second":
            stack.enter_context(portway.forward(_FIRST))
        with portway.forward(_MEASURED):
            pass
        for _ in range(count):
            started = time.perf_counter()
            with portway.forward(_MEASURED):
                taken.append((time.perf_counter() - started) * 1000)
    print(json.dumps({"ms": taken}))


if __name__ == "__main__":
    main()
