"""Program: forward() in a fresh interpreter; prints "ready" and ends at end of file on stdin.

Nothing but the client is imported, and it is run by its path: what is measured is a user's program, not the lab.
"""

import sys

from portway import forward

with forward(8000):
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
