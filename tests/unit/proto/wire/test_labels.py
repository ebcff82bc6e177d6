"""Labels: the form of a name, and the key that it is derived from."""

import pytest
from portway_proto.wire.labels import LABEL_LENGTH, is_label, label_of_key, short_label


def test_a_label_is_of_one_key() -> None:
    """Keys that differ in one bit have labels that have nothing in common."""
    one, other = label_of_key(bytes(32)), label_of_key(bytes(31) + b"\x01")
    assert is_label(one)
    assert len(one) == LABEL_LENGTH
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 8
    assert label_of_key(bytes(32)) == one


def test_logs_show_a_quarter_of_it() -> None:
    """The whole label is the secret in the URL."""
    assert short_label("k5zq2w7b3xav6mdy") == "k5zq…"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("k5zq2w7b3xav6mdy", True),
        ("a" * 15, False),
        ("a" * 17, False),
        ("A" * 16, False),
        ("a" * 15 + "1", False),
        ("a" * 15 + "8", False),
        ("a" * 16 + "\n", False),
        ("", False),
        ("ａ" * 16, False),
    ],
)
def test_a_labels_form(text: str, expected: bool) -> None:
    """16 characters of lower-case base32 and nothing else."""
    assert is_label(text) is expected
