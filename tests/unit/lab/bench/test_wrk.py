"""What wrk prints, read as numbers."""

import pytest
from portway_lab.bench import wrk

_OUTPUT = """Running 1s test @ https://127.0.0.1:1/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.96ms    6.25ms  57.52ms   95.70%
  Latency Distribution
     50%    1.86ms
     75%    2.27ms
     90%    3.51ms
     99%   54.51ms
  12718 requests in 1.00s, 3.24MB read
Requests/sec:  12718.00
"""


def test_units_are_read() -> None:
    """Latencies come in whatever unit wrk finds short, and are told in microseconds."""
    result = wrk.parse(_OUTPUT)
    assert result == wrk.WrkResult(requests=12718, seconds=1.0, p50_us=1860.0, p99_us=54510.0, errors=0)


def test_every_kind_of_error_counts() -> None:
    """Socket errors and answers that are no success are added up."""
    worse = _OUTPUT + "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 5\n"
    assert wrk.parse(worse).errors == 15


def test_output_of_another_kind_is_an_error() -> None:
    """A wrk that prints something else never becomes a figure."""
    with pytest.raises(RuntimeError, match="not understood"):
        wrk.parse("unable to connect")
