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


def test_a_tunnel_costs_one_write_each_time(costs: Costs) -> None:
    """Bound, bound elsewhere, withdrawn: each is one transaction with one key, and one event."""
    for cost in (costs.bind, costs.move, costs.withdraw):
        assert (cost.store.transactions, cost.store.writes, cost.store.events) == (1, 1, 1)
        assert cost.received_bytes > 0


def test_a_batch_is_one_transaction(costs: Costs) -> None:
    """As many tunnels as etcd takes at once are written at once."""
    store = costs.bind_many.store
    assert (store.transactions, store.writes) == (1, WRITES_PER_TRANSACTION)
    assert store.events == WRITES_PER_TRANSACTION


def test_a_lease_takes_its_keys_along(costs: Costs) -> None:
    """The node and its tunnel are gone without anybody writing."""
    store = costs.lease_end.store
    assert (store.transactions, store.events) == (0, 2)


def test_a_list_of_nodes_grows_with_them() -> None:
    """Every node is told of every node."""
    few, many = (peers_bytes([_info(f"fra-{number}") for number in range(count)]) for count in (10, 100))
    assert many > 9 * few
