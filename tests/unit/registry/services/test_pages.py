"""Pages of a list, by number and by size."""

from portway_proto.v1.types_pb2 import NodeInfo
from portway_registry.services.pages import _LARGEST_PAGE, page


def named(name: str) -> NodeInfo:
    return NodeInfo(name=name)


def all_pages(found: dict[str, str], size: int) -> list[list[str]]:
    pages, token = [], ""
    while True:
        nodes, token = page(found, named, after=token, size=size)
        pages.append([node.name for node in nodes])
        if not token:
            return pages


def test_a_list_is_paged_by_number() -> None:
    """In the order of the keys; the last page has no token."""
    found = {name: name for name in "ecadb"}
    assert all_pages(found, 2) == [["a", "b"], ["c", "d"], ["e"]]
    assert all_pages(found, 5) == [["a", "b", "c", "d", "e"]]
    assert all_pages(found, 0) == [["a", "b", "c", "d", "e"]]
    assert all_pages({}, 2) == [[]]


def test_a_page_never_exceeds_a_message() -> None:
    """A large record is a page of its own, so that the list always goes on."""
    large = "x" * (_LARGEST_PAGE // 2)
    found = {"a": large, "b": large, "c": "c", "d": large * 3, "e": "e"}
    pages = all_pages(found, 0)
    assert [[len(name) for name in names] for names in pages] == [
        [len(large)],
        [len(large), 1],
        [3 * len(large)],
        [1],
    ]


def test_what_is_removed_between_pages_shifts_nothing() -> None:
    """The token is the last record's key, whether that record still exists or not."""
    found = {name: name for name in "abcd"}
    _, token = page(found, named, after="", size=2)
    del found["b"], found["a"]
    nodes, token = page(found, named, after=token, size=2)
    assert ([node.name for node in nodes], token) == (["c", "d"], "")
