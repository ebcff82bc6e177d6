"""Program: one tunnel, held until SIGTERM. usage: hold_tunnel.py PORT --ready-file FILE"""

import json
import os
import signal
import sys
from pathlib import Path

import portway


def main() -> None:
    port, target = int(sys.argv[1]), Path(sys.argv[3])
    with portway.forward(port) as tunnel:
        host, public_port = tunnel.tls_socket
        partial = target.with_suffix(".partial")
        partial.write_text(json.dumps({"host": host, "port": public_port, "pid": os.getpid()}))
        partial.replace(target)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    # Blocked here and so in the threads to come: sigwait takes it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
