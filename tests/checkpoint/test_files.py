from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from cocktail_hub.checkpoint.files import LocalFiles, read_settings
from cocktail_hub.errors import SourceError

needs_links = pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")


def test_a_folder_lists_its_files_with_posix_paths_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "config.json").write_bytes(b"{}")
    (tmp_path / "a.txt").write_bytes(b"abc")
    assert LocalFiles(tmp_path).sizes == {"2_Dense/config.json": 2, "a.txt": 3}


def test_folders_of_tools_are_no_part_of_a_model(tmp_path: Path) -> None:
    for folder in (".git", ".cache"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x").write_bytes(b"x")
    assert LocalFiles(tmp_path).sizes == {}


def test_a_file_is_read_whole_or_in_part(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    files = LocalFiles(tmp_path)
    assert files.read("a") == b"0123456789"
    assert files.read_range("a", 2, 5) == b"234"
    assert files.read_range("a", 4, 4) == b""


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(SourceError, match="There is no folder 'nowhere'"):
        LocalFiles("nowhere")


def test_a_missing_file_is_named_with_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    with pytest.raises(SourceError, match=re.escape("no file 'confg.json'. Did you mean 'config.json'?")):
        LocalFiles(tmp_path).read("confg.json")


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "sub/../../secret"])
def test_a_path_cannot_leave_the_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    (tmp_path / "model").mkdir()
    with pytest.raises(SourceError, match="has no file"):
        LocalFiles(tmp_path / "model").read(path)


def test_a_file_cut_short_after_it_was_listed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    files = LocalFiles(tmp_path)
    (tmp_path / "a").write_bytes(b"01234")
    with pytest.raises(SourceError, match="ended at byte 5, but 10 were expected"):
        files.read("a")


@needs_links
def test_a_link_inside_of_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"r")
    (tmp_path / "link").symlink_to("real")
    assert LocalFiles(tmp_path).read("link") == b"r"


@needs_links
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceError, match=r"is a link to '.*secret', outside of its folder"):
        LocalFiles(model).read("config.json")


@needs_links
def test_a_link_through_a_linked_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"s")
    model = tmp_path / "model"
    model.mkdir()
    (model / "sub").symlink_to(outside, target_is_directory=True)
    with pytest.raises(SourceError, match="has no file"):
        LocalFiles(model).read("sub/x")


@needs_links
def test_a_dangling_link_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("gone")
    assert LocalFiles(tmp_path).sizes == {}


def _snapshot(cache: Path) -> Path:
    """Lay out one file as the Hub's cache does."""
    repo = cache / "models--org--name"
    (repo / "blobs").mkdir(parents=True)
    (repo / "blobs" / "abc").write_bytes(b"blob")
    snapshot = repo / "snapshots" / ("0" * 40)
    (snapshot / "sub").mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    (snapshot / "sub" / "x").symlink_to("../../../blobs/abc")
    return snapshot


@needs_links
def test_a_snapshot_of_the_hub_cache_links_to_its_blobs(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path)
    files = LocalFiles(snapshot)
    assert files.read("config.json") == b"blob"
    assert files.read("sub/x") == b"blob"
    assert LocalFiles(snapshot / "sub").read("x") == b"blob"


@needs_links
def test_blobs_that_came_over_xet_are_links_into_a_store_of_the_whole_cache(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path)
    store = tmp_path / "blobs" / "f2"
    store.mkdir(parents=True)
    (store / "f27e").write_bytes(b"weights")
    (snapshot.parents[1] / "blobs" / "etag").symlink_to("../../blobs/f2/f27e")
    (snapshot / "model.safetensors").symlink_to("../../blobs/etag")
    with pytest.raises(SourceError, match="outside of its folder"):
        LocalFiles(snapshot).read("model.safetensors")
    (tmp_path / "blobs" / ".huggingface-shared-blobs").write_text("1")
    assert LocalFiles(snapshot).read("model.safetensors") == b"weights"


@needs_links
def test_a_snapshot_does_not_link_to_another_repository(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path)
    other = tmp_path / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "key").write_bytes(b"s")
    (snapshot / "key").symlink_to(other / "key")
    with pytest.raises(SourceError, match="outside of its folder"):
        LocalFiles(snapshot).read("key")


@needs_links
def test_a_folder_that_only_calls_itself_a_snapshot_gets_no_blobs(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"s")
    model = tmp_path / "snapshots" / "main"
    model.mkdir(parents=True)
    (model / "x").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceError, match="outside of its folder"):
        LocalFiles(model).read("x")


@needs_links
@pytest.mark.parametrize("linked", ["models--org--name/blobs", "blobs"])
def test_blobs_that_are_a_link_are_not_those_of_the_hub_client(tmp_path: Path, linked: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret").write_bytes(b"s")
    (tmp_path / "home" / ".huggingface-shared-blobs").write_text("1")
    model = tmp_path / "models--org--name" / "snapshots" / ("0" * 40)
    model.mkdir(parents=True)
    (tmp_path / linked).symlink_to(tmp_path / "home", target_is_directory=True)
    (model / "x").symlink_to(tmp_path / linked / "secret")
    with pytest.raises(SourceError, match="outside of its folder"):
        LocalFiles(model).read("x")


@needs_links
def test_a_folder_reached_by_a_link_works(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "a").write_bytes(b"a")
    (tmp_path / "link").symlink_to(real, target_is_directory=True)
    assert LocalFiles(tmp_path / "link").read("a") == b"a"


def test_settings_of_millions_of_values_are_refused_before_they_are_parsed(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"a": [[],[],[]]}')
    files = LocalFiles(tmp_path, name="m")
    assert read_settings(files, "config.json") == b'{"a": [[],[],[]]}'
    monkeypatch.setattr("cocktail_hub.checkpoint.files.MOST_SETTINGS", 6)
    with pytest.raises(SourceError, match=r"'config\.json' of 'm' has about 7 values, more than the 6 that are read"):
        read_settings(files, "config.json")
