"""Whether a server is well, by its own page: the health check of an image.

healthy.py VARIABLE PATH: VARIABLE has the address of the pages, as the server reads it.
"""

import http.client
import os
import sys

variable, path = sys.argv[1:]
host, _, port = os.environ[variable].rpartition(":")
host = host.strip("[]")
# What is every address to whoever listens is none to connect to.
host = {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "::": "::1"}.get(host, host)
connection = http.client.HTTPConnection(host, int(port), timeout=4)
connection.request("GET", path)
answer = connection.getresponse()
print(answer.read().decode(errors="replace").strip())
sys.exit(answer.status != http.client.OK)
