from __future__ import annotations

import threading

import pytest

from tellurio_sync.autodiff import is_grad_enabled, no_grad, set_grad_enabled
from tests.model.fake_link import FAILSAFE_S


def test_no_grad_ends_as_it_began():
    assert is_grad_enabled()
    with no_grad():
        assert not is_grad_enabled()
        with no_grad():
            pass
        assert not is_grad_enabled()
    assert is_grad_enabled()


def test_no_grad_ends_after_an_error():
    with pytest.raises(ValueError), no_grad():
        raise ValueError
    assert is_grad_enabled()


def test_no_grad_as_a_decorator():
    @no_grad()
    def inside(depth):
        assert not is_grad_enabled()
        return inside(depth - 1) if depth else "done"

    assert is_grad_enabled()
    assert inside(2) == "done"
    assert is_grad_enabled()


def test_set_grad_enabled():
    set_grad_enabled(False)
    try:
        assert not is_grad_enabled()
    finally:
        set_grad_enabled(True)
    assert is_grad_enabled()
    with pytest.raises(TypeError):
        set_grad_enabled(1)  # type: ignore[arg-type]


def test_grad_mode_is_per_thread():
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append(is_grad_enabled()))
        thread.start()
        thread.join(FAILSAFE_S)
    assert seen == [True]
