"""simulation.registry_costs: what the registry's own code asks of a store that counts."""

import pytest
from portway_lab.simulation.registry_costs import Costs, measure_costs, peers_bytes
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeInfo
from portway_registry.store.etcd.messages import WRITES_PER_TRANSACTION


def _info(name: str) -> NodeInfo:
    return NodeInfo(name=name, region="fra", host=f"{name}.example.com", port=443, state=NODE_STATE_READY)


@pytest.fixture(scope="module")
def costs() -> Costs:
    return measure_costs((_info("fra-1"), _info("fra-2")))


def test_a_keep_alive_that_says_nothing_new_writes_nothing(costs: Costs) -> None:
    """It refreshes the lease and looks at the record."""
    store = costs.keep_alive.store
    assert (store.lease_calls, store.reads, store.transactions, store.events) == (1, 1, 0, 0)


def test_a_notable_keep_alive_is_one_write_that_every_replica_sees(costs: Costs) -> None:
    """One transaction, one event."""
    store = costs.keep_alive_notable.store
    assert (store.transactions, store.writes, store.events) == (1, 1, 1)
    assert store.event_bytes > 0


def test_a_tunnel_costs_one_write_and_its_session_another(costs: Costs) -> None:
    """Withdrawn it is one transaction with one key, and one event; bound it is two, with its session's presence before
    it, so that no tunnel is in the store that nothing places."""
    assert (costs.withdraw.store.transactions, costs.withdraw.store.writes, costs.withdraw.store.events) == (1, 1, 1)
    for cost in (costs.bind, costs.move):
        assert (cost.store.transactions, cost.store.writes, cost.store.events) == (2, 2, 2)
        assert cost.received_bytes > 0


def test_a_renewed_presence_is_one_write(costs: Costs) -> None:
    """Whatever number of tunnels the session has."""
    store = costs.renew.store
    assert (store.transactions, store.writes, store.events, store.reads) == (1, 1, 1, 0)


def test_a_batch_is_few_transactions(costs: Costs) -> None:
    """Tunnels are written 64 at a time, after the presence of their session."""
    store = costs.bind_many.store
    assert (store.transactions, store.writes) == (3, WRITES_PER_TRANSACTION + 1)
    assert store.events == WRITES_PER_TRANSACTION + 1


def test_a_lease_takes_its_keys_along(costs: Costs) -> None:
    """The node and its tunnel are gone without anybody writing."""
    store = costs.lease_end.store
    assert (store.transactions, store.events) == (0, 2)


def test_a_list_of_nodes_grows_with_them() -> None:
    """Every node is told of every node."""
    few, many = (peers_bytes([_info(f"fra-{number}") for number in range(count)]) for count in (10, 100))
    assert many > 9 * few
