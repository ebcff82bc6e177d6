"""Program: one visitor, one connection, one request after the other. Prints {"latencies_us": [...], "seconds"}."""

import json
import sys
import time

from portway_lab.bench.endpoint import Endpoint, read_head

# The first ones pay for caches and lanes.
_WARM_UP = 50


def main() -> None:
    endpoint = Endpoint.from_json(sys.argv[1])
    duration = float(sys.argv[2])
    request = endpoint.request("/")
    latencies: list[float] = []
    clock = time.perf_counter_ns
    with endpoint.connect(endpoint.context()) as connection:
        for _ in range(_WARM_UP):
            connection.sendall(request)
            length, body = read_head(connection)
            while len(body) < length:
                body += connection.recv(65_536)
        started = clock()
        end = started + int(duration * 1e9)
        while (before := clock()) < end:
            connection.sendall(request)
            length, body = read_head(connection)
            while len(body) < length:
                body += connection.recv(65_536)
            latencies.append((clock() - before) / 1000)
        seconds = (clock() - started) / 1e9
    print(json.dumps({"latencies_us": latencies, "seconds": seconds}))


if __name__ == "__main__":
    main()
