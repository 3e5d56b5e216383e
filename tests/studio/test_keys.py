from __future__ import annotations

import pickle

import pytest

from tellurio_sync.errors import InvalidAPIKeyError
from tellurio_sync.studio.keys import KeyHeader, clean_key


@pytest.mark.parametrize("pasted", ["abc", " abc", "abc\n", "\tabc\r\n"])
def test_blanks_around_a_pasted_key_are_dropped(pasted):
    assert clean_key(pasted) == "abc"


@pytest.mark.parametrize("key", ["secret part", "secret\nX-Header: 1", "secret€", "secret\x00"])
def test_what_cannot_stand_in_a_header_is_refused_without_being_quoted(key):
    with pytest.raises(InvalidAPIKeyError) as caught:
        clean_key(key)
    assert "secret" not in str(caught.value)


def test_a_key_is_neither_shown_nor_pickled():
    header = KeyHeader("secret")
    assert "secret" not in repr(header)
    with pytest.raises(TypeError):
        pickle.dumps(header)
    assert header.redact("no secret here") == "no *** here"
    assert KeyHeader(None).redact("text") == "text"
