"""files.py: files and folders appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from pathlib import Path

import pytest

from RVQCLib.files import (
    BundleError,
    RVQCError,
    append_line,
    check_output,
    read_json,
    same_settings,
    sha256,
    whole_file,
    whole_folder,
    write_json,
)


def test_a_whole_file_appears_with_the_suffix_that_writers_look_at(tmp_path):
    target = tmp_path / "new folder" / "maß.nii.gz"
    with whole_file(target) as part:
        assert part.name.endswith(".nii.gz") and not target.exists()
        part.write_bytes(b"all")
    assert target.read_bytes() == b"all"
    assert os.listdir(target.parent) == ["maß.nii.gz"]


def test_an_error_leaves_the_old_file_and_no_part(tmp_path):
    target = tmp_path / "mask.nii"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"), whole_file(target) as part:
        part.write_bytes(b"ha")
        raise OSError("disk full")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["mask.nii"]


def test_who_reads_the_old_file_reads_all_of_it(tmp_path):
    target = tmp_path / "mask.nii"
    target.write_bytes(b"old")
    with target.open("rb") as reader:
        with whole_file(target) as part:
            part.write_bytes(b"new!")
        assert reader.read() == b"old" and target.read_bytes() == b"new!"


def test_a_whole_folder_replaces_the_old_one(tmp_path):
    target = tmp_path / "study"
    target.mkdir()
    (target / "stale.nii").touch()
    with whole_folder(target) as part:
        (part / "fresh.nii").touch()
        assert (target / "stale.nii").exists()
    assert os.listdir(target) == ["fresh.nii"]
    assert os.listdir(tmp_path) == ["study"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o2775), (0o027, 0o2750)])
def test_a_whole_folder_has_the_rights_and_the_group_of_a_shared_one(tmp_path, umask, mode):
    tmp_path.chmod(0o2775)
    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "study") as part:
            assert re.fullmatch(r"\.part-study-[a-z0-9_]{8}", part.name)  # as `manifest.discard_parts` knows it
            (part / "fresh.nii").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "study").stat().st_mode) == mode


def test_an_old_folder_that_stays_is_named(tmp_path, monkeypatch, caplog):
    (tmp_path / "study").mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: None)
    with whole_folder(tmp_path / "study"):
        pass
    assert "could not be removed" in caplog.text and (tmp_path / "study").is_dir()


def test_an_error_leaves_the_old_folder(tmp_path):
    target = tmp_path / "study"
    target.mkdir()
    (target / "old.nii").touch()
    with pytest.raises(RuntimeError), whole_folder(target) as part:
        (part / "fresh.nii").touch()
        raise RuntimeError
    assert os.listdir(target) == ["old.nii"]


def test_a_folder_that_cannot_come_leaves_the_old_one_in_its_place(tmp_path, monkeypatch):
    target, rename = tmp_path / "study", Path.rename
    target.mkdir()
    (target / "old.nii").touch()

    def refused(path, to):
        if path.name.startswith(".part-"):
            raise OSError("not now")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="not now"), whole_folder(target):
        pass
    assert os.listdir(tmp_path) == ["study"] and os.listdir(target) == ["old.nii"]
    assert os.listdir(tmp_path) == ["study"]


def test_the_old_folder_is_there_until_the_new_one_is(tmp_path, monkeypatch):
    """A machine that fails just after the old folder was moved away leaves it, under whatever name."""
    target, rename = tmp_path / "study", Path.rename
    target.mkdir()
    (target / "old.nii").touch()

    def fails(path, to):
        if path != target:
            raise OSError("power cut")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="power cut"), whole_folder(target):
        pass
    assert list(tmp_path.rglob("old.nii"))


def test_a_line_is_on_the_disk_when_it_was_appended(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    append_line(tmp_path / "log", "one")
    append_line(tmp_path / "log", "two")
    assert len(synced) == 2


def test_json_comes_back_and_refuses_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"RV": [1, 0.5, None], "name": "Jürgen"})
    assert read_json(path) == {"RV": [1, 0.5, None], "name": "Jürgen"}
    assert "Jürgen" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError):
        write_json(path, {"hd": float("nan")})
    assert read_json(path)["name"] == "Jürgen"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", None])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "broken.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RVQCError, match=r"broken\.json"):
        read_json(path)


def test_sha256(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert sha256(path) == hashlib.sha256(b"abc").hexdigest()


def test_errors_are_value_errors():
    assert issubclass(BundleError, RVQCError) and issubclass(RVQCError, ValueError)


DEFAULTS = {"config": {"epochs": 40, "sampling": {"size": 128, "upright": False}, "parameters": {}}}
OWN = {"config": {"epochs": 9, "sampling": {"size": 96, "upright": False}, "parameters": {}}, "split": ["a"]}


@pytest.mark.parametrize(
    ("stored", "same"),
    [
        (OWN, True),
        ({"config": {"epochs": 9, "sampling": {"size": 96}}, "split": ["a"]}, True),  # older than two settings
        ({"config": {"sampling": {"size": 96}}, "split": ["a"]}, False),  # 40 epochs
        ({"config": {"epochs": 9}, "split": ["a"]}, False),  # 128 pixels
        ({"config": {"epochs": 9, "sampling": {"size": 96}}, "split": ["b"]}, False),
        ({"config": {"epochs": 9, "sampling": {"size": 96}}}, False),  # a split has no default
        (
            {"config": {"epochs": 9, "sampling": {"size": 96}, "momentum": 0.9}, "split": ["a"]},
            False,
        ),  # no longer known
        ({"config": {"epochs": 9, "sampling": {"size": 96}, "parameters": {"BN1": {}}}, "split": ["a"]}, False),
        ({"config": [], "split": ["a"]}, False),
        ([], False),
    ],
)
def test_a_setting_that_is_missing_has_its_default(stored, same):
    assert same_settings(stored, OWN, DEFAULTS) is same
    assert same_settings(OWN, stored, DEFAULTS) is same


def test_a_folder_that_cannot_be_put_in_its_place_is_refused_before_the_work(tmp_path, monkeypatch):
    out = tmp_path / "above" / "out"
    out.mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(out.parent))
    with pytest.raises(
        RVQCError, match=r"out cannot be replaced where it is; name a new folder in it, such as .*results"
    ):
        check_output(out, (), "an evaluation")
    monkeypatch.undo()
    check_output(out, (), "an evaluation")
    monkeypatch.setattr(os.path, "ismount", lambda path: str(path) == str(out))
    with pytest.raises(RVQCError, match="cannot be replaced where it is"):
        check_output(out, (), "an evaluation")


def test_the_folder_in_which_one_stands_can_be_replaced(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with whole_folder(".") as folder:
        (folder / "new").write_text("new")
    assert (tmp_path / "here" / "new").read_text() == "new"
