from __future__ import annotations

import json
import os
import stat
import sys

import pytest

from tellurio_sync.studio import config


@pytest.fixture
def file(home):
    return home / ".tellurio_config.json"


def test_without_a_file_nothing_is_known(file):
    assert (config.username(), config.consent()) == (None, None)
    assert not file.exists()


def test_what_is_saved_is_read_again(file):
    config.save_username("me")
    config.save_consent()
    assert (config.username(), config.consent()) == ("me", True)
    assert file.read_text() == '{\n  "username": "me",\n  "allow_api_key_sharing": true\n}\n'


def test_another_user_inherits_nothing(file):
    file.write_text('{"username": "me", "allow_api_key_sharing": true, "theme": "dark"}')
    config.save_username("me")
    assert json.loads(file.read_text()) == {"username": "me", "allow_api_key_sharing": True, "theme": "dark"}
    config.save_username("you")
    assert json.loads(file.read_text()) == {"username": "you"}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"username": 1, "allow_api_key_sharing": "yes"}']
)
def test_a_broken_file_counts_as_empty_and_is_mended_by_the_next_login(file, content, caplog):
    file.write_bytes(content)
    assert (config.username(), config.consent()) == (None, None)
    config.save_username("me")
    assert json.loads(file.read_text())["username"] == "me"


def test_a_broken_file_is_complained_about(file, caplog):
    file.write_text("{")
    config.username()
    assert "~/.tellurio_config.json is taken as empty" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="no modes there")
def test_the_file_is_for_its_owner_only(file):
    file.write_text("{}")
    file.chmod(0o644)
    config.save_username("me")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_old_file_and_no_other(file, monkeypatch):
    config.save_username("me")
    before = file.read_text()

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        config.save_consent()
    assert file.read_text() == before
    assert os.listdir(file.parent) == [file.name]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_stays_a_link(file, home):
    target = home / "dotfiles.json"
    target.write_text("{}")
    file.symlink_to(target)
    config.save_username("me")
    assert file.is_symlink()
    assert json.loads(target.read_text()) == {"username": "me"}


def test_a_home_that_does_not_exist(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home / "gone"))
    monkeypatch.setenv("USERPROFILE", str(home / "gone"))
    assert config.username() is None
    with pytest.raises(OSError):
        config.save_username("me")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_hang(file, caplog):
    os.mkfifo(file)
    assert config.username() is None
    assert "it is no regular file" in caplog.text


def test_a_directory_is_no_file(file, caplog):
    file.mkdir()
    assert config.username() is None
    assert "is taken as empty" in caplog.text
    with pytest.raises(OSError, match="tellurio_config"):
        config.save_username("me")


def test_a_user_without_a_home_has_none_and_is_not_warned(monkeypatch, caplog):
    monkeypatch.setenv("HOME", "/dev/null/nobody")
    assert config.username() is None

    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", homeless)
    assert config.username() is None
    assert caplog.text == ""
    with pytest.raises(OSError, match="cannot be written: Could not determine home"):
        config.save_username("me")
