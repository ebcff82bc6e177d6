"""Opening the store that the settings name."""

import logging

import pytest
from portway_registry.store.open import open_store
from portway_registry.store.spec import EmbeddedSpec, EtcdSpec


@pytest.mark.parametrize(
    ("spec", "warns"),
    [
        pytest.param(EtcdSpec(("127.0.0.1:1", "10.0.0.1:2379")), True, id="another machine in clear text"),
        pytest.param(EtcdSpec(("127.0.0.1:1",)), False, id="this machine"),
        pytest.param(EtcdSpec(("10.0.0.1:1",), secure=True), False, id="TLS"),
        pytest.param(EmbeddedSpec(None), False, id="embedded"),
    ],
)
async def test_clear_text_to_another_machine_is_warned_of(
    caplog: pytest.LogCaptureFixture, spec: EmbeddedSpec | EtcdSpec, warns: bool
) -> None:
    """The store holds the cluster's keys; the warning names the endpoints that are meant."""
    with caplog.at_level(logging.WARNING, "portway_registry.store.open"):
        store = open_store(spec, on_failure=print)
    await store.close()
    warned = [record for record in caplog.records if "without TLS" in record.message]
    assert [record.__dict__["endpoints"] for record in warned] == (["10.0.0.1:2379"] if warns else [])
