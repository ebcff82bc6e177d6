"""What others chose, made fit for a terminal."""

import json

import pytest
from portway_runtime.printable import printable_json, printable_line, printable_lines

CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))]
OTHERS = ["\u2028", "\u2029", "\u202e", "\u200b", "\ud800", "\U000e0001"]


@pytest.mark.parametrize("character", CONTROLS + OTHERS, ids=lambda character: f"{ord(character):04x}")
def test_an_unprintable_character_is_replaced_and_escaped_in_json(character: str) -> None:
    """C0, DEL, C1, line separators, characters that change the direction of text, half a surrogate pair."""
    assert printable_line(f"a{character}b") == "a\ufffdb"
    line = printable_json({"a": f"b{character}c"})
    assert line.isprintable()
    assert json.loads(line) == {"a": f"b{character}c"}


def test_what_is_printable_stays() -> None:
    """Letters of any script, signs, spaces."""
    text = 'Zürich, 東京 – "a" \\ 🚀'
    assert printable_line(text) == text
    assert json.loads(printable_json(text)) == text
    assert "東京" in printable_json(text)


def test_lines_stay_lines() -> None:
    """A line feed ends one; a carriage return would write over it."""
    assert printable_lines("one\ntwo\r\x1b[A\n") == "one\ntwo\ufffd\ufffd[A\n"


def test_json_gives_what_it_cannot_express_as_text() -> None:
    """With keys in order, where that is asked for."""
    assert printable_json({"b": {1}, "a": 2}, sort_keys=True) == '{"a": 2, "b": "{1}"}'
