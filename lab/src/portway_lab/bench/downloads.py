"""Program: one visitor downloads so many bytes over one connection. Prints {"bytes", "seconds"}."""

import json
import sys
import time

from portway_lab.bench.endpoint import Endpoint, read_head

_BUFFER = 1 << 20


def main() -> None:
    endpoint = Endpoint.from_json(sys.argv[1])
    wanted = int(sys.argv[2])
    buffer = bytearray(_BUFFER)
    with endpoint.connect(endpoint.context()) as connection:
        received = 0
        started = time.perf_counter()
        while received < wanted:
            connection.sendall(endpoint.request("/big"))
            length, first = read_head(connection)
            left = length - len(first)
            while left > 0:
                count = connection.recv_into(buffer, min(left, _BUFFER))
                if count == 0:
                    raise ConnectionError(f"the download broke off {left} bytes early")
                left -= count
            received += length
        seconds = time.perf_counter() - started
    print(json.dumps({"bytes": received, "seconds": seconds}))


if __name__ == "__main__":
    main()
