from __future__ import annotations

import io
import os
import pathlib
import pickle
import zipfile
from collections import OrderedDict
from fractions import Fraction

import pytest

from tellurio_sync.errors import UsageError
from tellurio_sync.model import JAGGED, Parameter, Variable
from tellurio_sync.model.serialization import load, save


def test_what_is_saved_is_loaded_without_a_call(link, tmp_path):
    path = tmp_path / "checkpoint.hf"
    saved = OrderedDict(prompt=Parameter("a", "r"), data=[Variable([1, None]), {"x": {1, 2}}], shape=(2, JAGGED))
    save(saved, path)
    before = len(link.calls())
    loaded = load(path)
    assert len(link.calls()) == before
    assert list(loaded) == ["prompt", "data", "shape"]
    assert (type(loaded["prompt"]), loaded["prompt"].data, loaded["prompt"].role) == (Parameter, "a", "r")
    assert (loaded["data"][0].data, loaded["data"][1]) == ([1, None], {"x": {1, 2}})
    assert loaded["shape"] == (2, JAGGED)
    assert loaded["prompt"].variable_id is None
    assert Parameter("", "").copy_(loaded["prompt"]).data == "a"


def test_open_files_are_written_and_read(link, tmp_path):
    file = io.BytesIO()
    save({"prompt": Parameter("a", "r")}, file)
    file.seek(0)
    assert load(file)["prompt"].data == "a"
    with open(tmp_path / "checkpoint.hf", "wb") as written:
        save([1], written)
    with open(tmp_path / "checkpoint.hf", "rb") as read:
        assert load(read) == [1]
    with pytest.raises(UsageError, match="the file is no checkpoint"):
        load(io.BytesIO(b"text"))
    exported = io.BytesIO(b'{"format": "tellurio parameter", "data": "learnt", "role": "prompt"}')
    assert load(exported).data == "learnt"


def test_the_form_of_the_file(link, tmp_path):
    path = tmp_path / "checkpoint.hf"
    save({"a": 1}, path)
    with zipfile.ZipFile(path) as archive:
        (member,) = archive.infolist()
        assert (member.filename, member.compress_type) == ("data.pkl", zipfile.ZIP_DEFLATED)
        assert archive.read(member)[:2] == b"\x80\x02"
    assert os.listdir(tmp_path) == ["checkpoint.hf"]


def test_a_failed_save_leaves_the_old_file(link, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.hf"
    save("old", path)
    monkeypatch.setattr(zipfile.ZipFile, "writestr", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save("new", path)
    assert load(path) == "old"
    assert os.listdir(tmp_path) == ["checkpoint.hf"]


class Exploit:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("content", [Exploit(), Fraction(1, 2), print])
def test_a_file_that_names_foreign_code_is_refused(tmp_path, content):
    path = tmp_path / "checkpoint.hf"
    save([content], path)
    with pytest.raises(UsageError, match="may run code"):
        load(path)


def test_own_classes_may_be_allowed(tmp_path):
    path = tmp_path / "checkpoint.hf"
    save(Fraction(1, 2), path)
    assert load(path, allow=[Fraction]) == Fraction(1, 2)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"text")
    with pytest.raises(UsageError, match="no checkpoint"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(RuntimeError, match=r"'data\.pkl' is expected"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps("text")[:-1])
    with pytest.raises(UsageError, match="cannot be read"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'{"format": "tellurio parameter"}', b'{"format": 1, "data": "x"}', b"{" * 100_000, b"\xff{"],
)
def test_what_only_looks_like_an_export_is_no_checkpoint(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "prompt.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is no checkpoint"):
        load(path)
