"""What is made of the visits around a fault."""

from portway_lab.field_test.switched_off import judged


def test_visits_in_progress_are_apart_from_those_that_began_after() -> None:
    """Failures, the slowest visit, and until when visits were slow."""
    told = {
        "began": [0.0, 8.0, 9.9, 10.5, 11.0, 13.0, 20.0],
        "took": [0.3, 0.3, 2.0, 4.0, 0.1, 2.5, 0.3],
        "failures": {"2": "reset", "4": "503", "5": "503"},
    }
    found = judged("fra", told, 10.0)
    assert (found.region, found.number, found.failed_in_progress) == ("fra", 7, 1)
    assert found.failed_after == {"503": [1.0, 3.0]}
    assert (found.slowest, found.slow_until) == (4.0, 3.0)
