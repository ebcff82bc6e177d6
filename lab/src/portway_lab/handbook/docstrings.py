"""Docstrings as pages show them: mkdocs.yml names this module as an extension of griffe, which reads the sources.

The sources' docstrings are plain text. Lines of the form `name: what it is`, and those that continue them, become a
list; a tree of errors stays as it is. `forward` is an object that is called, and is shown as the function that it is to
users.
"""

import re
from typing import Any, Final

from griffe import Docstring, Extension, Function, Object

_ARGUMENT: Final = re.compile(r"([a-z_0-9]+(?:, [a-z_0-9]+)*): (.*)")
_TREE: Final = ("├", "└", "│")
_FORWARD: Final = "_Forward.__call__"


class PlainDocstrings(Extension):
    """Turns each docstring into Markdown."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            shown = markdown(obj.docstring.value)
            obj.docstring = Docstring(shown, parent=obj, lineno=obj.docstring.lineno, endlineno=obj.docstring.endlineno)
        if isinstance(obj, Function) and obj.path.endswith(_FORWARD):
            obj.name = "forward"


def markdown(docstring: str) -> str:
    """The docstring's paragraphs as Markdown."""
    return "\n\n".join(map(_paragraph, docstring.split("\n\n")))


def _paragraph(text: str) -> str:
    lines = text.splitlines()
    if any(line.strip().startswith(_TREE) for line in lines):
        return "\n".join(["```text", *lines, "```"])
    if not lines or not _ARGUMENT.match(lines[0]):
        return text
    shown = []
    for line in lines:
        argument = _ARGUMENT.match(line)
        if argument is not None:
            names = ", ".join(f"`{name}`" for name in argument[1].split(", "))
            shown.append(f"* {names}: {argument[2]}")
        else:
            shown.append(f"  {line.strip()}")
    return "\n".join(shown)
