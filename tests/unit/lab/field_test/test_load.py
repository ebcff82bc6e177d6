"""What is made of the visits during a trial."""

from collections import Counter

from portway_lab.field_test.load import Trial, judged
from portway_lab.field_test.visiting import Visit


def test_visits_in_progress_when_a_machine_died_are_apart_from_the_others() -> None:
    """Those may fail; what began after it may not, nor what failed without a machine's death."""
    trial = Trial("home", began=100.0, ended=160.0, losses=[110.0])
    visits = [
        Visit(90.0, 2.0, "192.0.2.1", "01"),  # over before
        Visit(99.5, 1.0, "192.0.2.1", "01"),
        Visit(103.0, 0.2, "192.0.2.1", "01", "ValueError: 503"),
        Visit(109.9, 2.0, "192.0.2.1", "01", "ConnectionResetError: "),
        Visit(110.5, 4.0, "192.0.2.2", "02"),
        Visit(111.0, 30.0, "", "", "TimeoutError: "),
        Visit(113.0, 0.1, "192.0.2.2", "02", "ValueError: 503"),
        Visit(170.0, 0.1, "192.0.2.2", "02", "ValueError: 503"),  # began after
    ]
    found = judged(trial, "fra", visits)
    assert (found.region, found.number, found.lost) == ("fra", 6, 1)
    assert found.failed == {"ValueError: 503": [3.0, 13.0], "TimeoutError: ": [11.0]}
    assert (found.slowest, found.slowest_began) == (4.0, 10.5)
    assert found.through == Counter({"192.0.2.1": 3, "192.0.2.2": 2})
    assert found.certificates == 2


def test_a_visit_that_began_before_the_trial_is_judged_in_the_one_before() -> None:
    """Also when it fails in this one."""
    found = judged(Trial("next", began=100.0, ended=160.0), "fra", [Visit(95.0, 10.0, failure="TimeoutError: ")])
    assert (found.number, found.lost, found.failed) == (1, 0, {})


def test_nobody_came() -> None:
    """Nothing failed, and nothing was slow."""
    found = judged(Trial("quiet", began=100.0, ended=160.0), "fra", [])
    assert (found.number, found.slowest, found.failed) == (0, 0.0, {})
