"""Docstrings become Markdown: lists of arguments, trees, and everything else as it is."""

from portway_lab.handbook.docstrings import markdown


def test_arguments_become_a_list() -> None:
    """With the lines that continue them."""
    text = "Opens.\n\nport: where it is,\n    on this machine.\nregistry, token: used instead\n\nRaises nothing."
    shown = (
        "Opens.\n\n* `port`: where it is,\n  on this machine.\n* `registry`, `token`: used instead\n\nRaises nothing."
    )
    assert markdown(text) == shown


def test_a_tree_stays_as_it_is() -> None:
    """In a block of code."""
    tree = "Error\n├── InvalidError  an argument\n└── ConfigError   a setting"
    assert markdown(f"All.\n\n{tree}") == f"All.\n\n```text\n{tree}\n```"


def test_a_sentence_with_a_colon_is_no_argument() -> None:
    """Nor is an indented example."""
    for text in ("It ends: nothing stays.", "    with forward(8000) as tunnel:\n        print(tunnel.url)"):
        assert markdown(text) == text
