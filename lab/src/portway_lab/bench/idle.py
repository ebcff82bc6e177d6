"""Program: so many visitors that ask once each and then stay, silent. Prints {"held"} and ends with its stdin."""

import json
import sys

from portway_lab.bench.endpoint import Endpoint, read_head


def main() -> None:
    endpoint = Endpoint.from_json(sys.argv[1])
    context = endpoint.context()
    held = []
    for _ in range(int(sys.argv[2])):
        connection = endpoint.connect(context)
        connection.sendall(endpoint.request("/"))
        length, body = read_head(connection)
        while len(body) < length:
            body += connection.recv(65_536)
        held.append(connection)
    print(json.dumps({"held": len(held)}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
