"""Ids and secrets of tokens and invitations: random, of one form, compared by hash."""

import pytest
from portway_registry.access.credentials import Credential
from portway_registry.errors import TokenMalformed


def test_no_two_credentials_are_alike() -> None:
    """Ids and secrets are random."""
    made = [Credential.create() for _ in range(200)]
    assert len({one.id for one in made}) == len({one.secret for one in made}) == 200


def test_the_text_is_read_again() -> None:
    """What is shown to the holder has the id and the secret; another prefix is another kind of credential."""
    made = Credential.create()
    assert Credential.parse(made.text("pw_"), "pw_") == made
    with pytest.raises(TokenMalformed):
        Credential.parse(made.text("pwj_"), "pw_")
    with pytest.raises(TokenMalformed):
        Credential.parse(made.text("pw_"), "pwj_")


@pytest.mark.parametrize(
    "text",
    [
        *("", "pw", "pw__", "pw_a", "pw_a_b", "pw_a_" + "a" * 31, "pw_a_" + "a" * 33),
        *("PW_a_" + "a" * 32, "pw_A_" + "a" * 32, "pw_é_" + "a" * 32, "pw_a_" + "1" * 32),
        *(" pw_a_" + "a" * 32, "pw_a_" + "a" * 32 + "\n"),
    ],
)
def test_other_forms_are_malformed(text: str) -> None:
    """A cut, doubled, padded or foreign text is not a credential."""
    with pytest.raises(TokenMalformed, match="pw_<id>_<secret>"):
        Credential.parse(text, "pw_")


def test_only_its_own_secret_matches() -> None:
    """The stored hash knows its secret again, and no other; the secret is not in the credential's repr."""
    made, other = Credential.create(), Credential.create()
    assert made.matches(made.sha256)
    assert not made.matches(other.sha256)
    assert made.secret not in repr(made)
