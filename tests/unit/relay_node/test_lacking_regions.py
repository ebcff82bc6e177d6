"""Regions whose names a node cannot serve."""

import logging
from typing import Any

import pytest
from portway_relay.lacking_regions import LackingRegions


class Node:
    """The certificates of a node, and the regions of its cluster."""

    def __init__(self) -> None:
        self.zones: dict[str, object] = {"fra.example.com": None}
        self.regions = {"fra"}
        certificates: Any = self
        self.lacking = LackingRegions("example.com", lambda: certificates, lambda: self.regions)


@pytest.fixture
def node() -> Node:
    return Node()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.__dict__["region"] for record in caplog.records if record.levelno == logging.WARNING]


def test_each_region_is_logged_once(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """However often lists come; one more region is one more line."""
    node.lacking.look()
    assert told(caplog) == []
    node.regions |= {"iad", "ams"}
    node.lacking.look()
    node.lacking.look()
    assert told(caplog) == ["ams", "iad"]
    assert node.lacking.regions == ["ams", "iad"]
    node.regions.add("lhr")
    node.lacking.look()
    assert told(caplog) == ["ams", "iad", "lhr"]


def test_a_certificate_that_comes_is_enough(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """When it goes again, that is logged again."""
    node.regions.add("iad")
    node.lacking.look()
    assert node.lacking.zones == {"iad.example.com"}
    node.zones["iad.example.com"] = None
    with caplog.at_level(logging.INFO):
        node.lacking.look()
    assert node.lacking.zones == frozenset()
    assert "served now" in caplog.text
    del node.zones["iad.example.com"]
    node.lacking.look()
    assert told(caplog) == ["iad", "iad"]


def test_a_region_that_has_gone_lacks_nothing(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """Its last node was removed; nobody is told that it is served."""
    node.regions.add("iad")
    node.lacking.look()
    node.regions.remove("iad")
    with caplog.at_level(logging.INFO):
        node.lacking.look()
    assert node.lacking.regions == []
    assert "served now" not in caplog.text
