"""wrk: keep-alive requests over a number of connections, with latencies."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from portway_lab.bench.endpoint import Endpoint

_UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}
# wrk takes the TLS server name from the URL and resolves it with the system's resolver, which does not know
# *.localhost.
_SCRIPT = """
function wrk.resolve(host, service)
  wrk.addrs = wrk.lookup("{host}", service)
end
"""


@dataclass(frozen=True, slots=True)
class WrkResult:
    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: int


def run_wrk(endpoint: Endpoint, connections: int, seconds: float, folder: Path) -> WrkResult:
    """Raises RuntimeError when wrk fails or its output cannot be read."""
    script = folder / "wrk.lua"
    script.write_text(_SCRIPT.format(host=endpoint.host))
    scheme = "http" if endpoint.server_name is None else "https"
    url = f"{scheme}://{endpoint.server_name or endpoint.host}:{endpoint.port}/"
    # wrk takes whole seconds only.
    duration = max(1, round(seconds))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration}s", "--latency", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=duration + 60, check=False, env=os.environ)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stdout}{done.stderr}")
    return parse(done.stdout)


def parse(output: str) -> WrkResult:
    """The numbers of wrk's output. Raises RuntimeError when they are not all there."""
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)\b", output)
    p50 = re.search(r"^\s*50%\s+([\d.]+)(us|ms|s|m)$", output, re.MULTILINE)
    p99 = re.search(r"^\s*99%\s+([\d.]+)(us|ms|s|m)$", output, re.MULTILINE)
    if not (total and p50 and p99):
        raise RuntimeError(f"the output of wrk is not understood:\n{output}")
    errors = sum(
        int(number) for line in re.findall(r"Socket errors: (.*)", output) for number in re.findall(r"\d+", line)
    )
    errors += sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", output))
    return WrkResult(
        int(total[1]),
        float(total[2]) * _UNITS[total[3]] / 1e6,
        float(p50[1]) * _UNITS[p50[2]],
        float(p99[1]) * _UNITS[p99[2]],
        errors,
    )
