"""Text from peers as a terminal and a log may show it: no character that controls a terminal or begins another line.

Every command and every log format passes through here what another party may have chosen: names, versions, reasons,
errors. Unprintable are, by Unicode, the control characters C0 and C1, line and paragraph separators, characters that
change the direction of text, unassigned ones and lone surrogates (`str.isprintable`).
"""

from typing import Final

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


def printable_line(text: str) -> str:
    """One line for people: each unprintable character is replaced by U+FFFD."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _REPLACEMENT for character in text)


def printable_lines(text: str) -> str:
    """As `printable_line`, for text of several lines. A line ends with a line feed only."""
    return "\n".join(map(printable_line, text.split("\n")))


def printable_json(value: object, *, sort_keys: bool = False) -> str:
    """One line of JSON: each unprintable character is escaped, so a program reads the value as it was.

    A value that JSON cannot express is given as its `str`.
    """
    import json  # here, because it takes 1 ms and most programs that import this module write no JSON

    text = json.dumps(value, default=str, ensure_ascii=False, sort_keys=sort_keys)
    if text.isprintable():
        return text
    # Outside strings JSON is ASCII, so every unprintable character is part of one, where it may be escaped.
    return "".join(character if character.isprintable() else json.dumps(character)[1:-1] for character in text)
