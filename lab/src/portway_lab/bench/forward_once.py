"""Program: forward() in a fresh interpreter; says when it is ready and ends with its stdin."""

import sys

from portway import forward

with forward(8000):
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
