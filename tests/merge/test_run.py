"""What happens to a mix when its models, its folders or its disk come to harm under it: words, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from models import SHARES, fill, push, small_llama, text_tokenizer

from cocktail_hub import mix
from cocktail_hub.cli import main
from cocktail_hub.errors import CheckpointError, CocktailError
from cocktail_hub.merge.engine.journal import Journal
from cocktail_hub.merge.options import MixOptions
from cocktail_hub.pipeline import mix as pipeline
from cocktail_hub.storage.positional_file import PositionalFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cocktail_hub.merge.engine.journal import Entry
    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole

SHARD = 10_000
OPTIONS = MixOptions(max_shard_size=SHARD, threads=1)
WEIGHTS = "model.safetensors"


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    """A mix of two local models of 76 kB, in nine files or so."""
    for seed in range(2):
        fill(small_llama(), seed).save_pretrained(tmp_path / f"m{seed}")
        text_tokenizer().save_pretrained(tmp_path / f"m{seed}")
    return {"ingredients": [{"model": str(tmp_path / f"m{n}"), "weight": SHARES[n]} for n in range(2)]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cocktail"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finished(folder: Path) -> dict[str, int]:
    """Finished weight files -> inode."""
    return {path.name: path.stat().st_ino for path in folder.rglob("*.safetensors")}


def after(count: int, harm: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do harm when that many weight files are finished."""
    record = Journal.record

    def recording(journal: Journal, path: str, entry: Entry) -> None:
        record(journal, path, entry)
        if len(journal.finished) == count:
            harm()

    monkeypatch.setattr(Journal, "record", recording)


# -- models ------------------------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def rewrite(path: Path) -> None:
    """Other weights of the same size, and the times as they were."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-5000:] = bytes(5000)
    with path.open("rb+") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path) -> None:
    shutil.copy2(path, path.with_suffix(".new"))
    rewrite(path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


HARMS = [cut_short, rewrite, replace, Path.unlink]


@pytest.mark.parametrize("low_disk", [False, True])
@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_model_that_changes_during_the_merge_is_noticed_and_finished_files_are_kept(
    harm: Callable[[Path], None],
    low_disk: bool,
    tmp_path: Path,
    recipe: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, out = tmp_path / "m1" / WEIGHTS, tmp_path / "out"
    whole = path.read_bytes()
    options = replace_fields(OPTIONS, low_disk=low_disk)
    expected = contents(mix(recipe, output=tmp_path / "calm", options=options).path)
    with monkeypatch.context() as patched:
        after(3, lambda: harm(path), patched)
        with pytest.raises(CheckpointError, match=r"'model\.safetensors' of '.*m1' (changed while|ends at byte)"):
            mix(recipe, output=out, options=options)
    assert not out.exists()
    kept = finished(next(tmp_path.glob(".out.*.partial")))
    assert len(kept) >= 3
    path.write_bytes(whole)
    mix(recipe, output=out, options=options)
    assert finished(out).items() >= kept.items()
    assert contents(out) == expected
    assert [found.name for found in tmp_path.glob(".out*")] == []


@pytest.mark.parametrize("output", [True, False])
def test_a_lasting_change_makes_another_mix(
    output: bool, tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" if output else None
    with monkeypatch.context() as patched:
        after(3, lambda: rewrite(tmp_path / "m0" / WEIGHTS), patched)
        with pytest.raises(CheckpointError, match="changed while it was being mixed"):
            mix(recipe, output=out, options=OPTIONS)
    made = mix(recipe, output=out, options=OPTIONS)
    calm = mix(recipe, output=tmp_path / "calm", options=replace_fields(OPTIONS, force=True))
    assert contents(made.path) == contents(calm.path)
    assert [found.name for found in tmp_path.glob(".out*")] == []


@pytest.mark.parametrize("name", [WEIGHTS, "tokenizer.json"])
@pytest.mark.parametrize("low_disk", [False, True])
def test_a_model_that_changes_between_check_and_merge_is_noticed(
    name: str,
    low_disk: bool,
    tmp_path: Path,
    recipe: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = pipeline.plan_mix

    def planning(*arguments: Any) -> Any:
        path = tmp_path / "m0" / name
        status = path.stat()
        path.write_bytes(path.read_bytes()[:-1] + b" ")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        return plan(*arguments)

    monkeypatch.setattr(pipeline, "plan_mix", planning)
    with pytest.raises(CheckpointError, match=rf"'{name}' of '.*m0' changed while it was being mixed"):
        mix(recipe, output=tmp_path / "out", options=replace_fields(OPTIONS, low_disk=low_disk))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="files are read in another way")
def test_a_disk_that_cannot_be_read_keeps_finished_files(
    tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(mix(recipe, output=tmp_path / "calm", options=OPTIONS).path)
    read, broken = PositionalFile._read_some, [False]

    def reading(file: PositionalFile, out: memoryview, offset: int) -> int:
        if broken[0] and file.path.parent.name == "m0":
            raise OSError(errno.EIO, "Input/output error")
        return read(file, out, offset)

    with monkeypatch.context() as patched:
        patched.setattr(PositionalFile, "_read_some", reading)
        after(4, lambda: broken.__setitem__(0, True), patched)
        with pytest.raises(CheckpointError, match=r"(?s)Reading 'model.*Input/output error.*are kept"):
            mix(recipe, output=tmp_path / "out", options=OPTIONS)
    kept = finished(next(tmp_path.glob(".out.*.partial")))
    assert len(kept) >= 4
    mix(recipe, output=tmp_path / "out", options=OPTIONS)
    assert finished(tmp_path / "out").items() >= kept.items()
    assert contents(tmp_path / "out") == expected


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["output", "cache"])
def test_a_staging_folder_that_is_removed_during_the_merge_is_an_error(
    place: str, tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" if place == "output" else None

    def harm() -> None:
        for path in (*tmp_path.glob(".out.*"), tmp_path / "cocktail"):
            shutil.rmtree(path, ignore_errors=True)

    with monkeypatch.context() as patched:
        after(3, harm, patched)
        with pytest.raises(CocktailError, match=r"Writing to '.*' failed: .*No such file"):
            mix(recipe, output=out, options=OPTIONS)
    made = mix(recipe, output=out, options=OPTIONS)
    assert len(finished(made.path)) > 5


def test_an_output_folder_that_is_filled_meanwhile_is_left_alone(
    tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    mixed = mix({"ingredients": [dict(entry, weight=0.5) for entry in recipe["ingredients"]]}, options=OPTIONS).path
    expected = contents(mixed)
    with monkeypatch.context() as patched:
        after(2, lambda: shutil.copytree(mixed, out), patched)
        with pytest.raises(CocktailError, match="exists and is not empty"):
            mix(recipe, output=out, options=OPTIONS)
    assert contents(out) == expected
    shutil.rmtree(out)
    assert mix(recipe, output=out, options=OPTIONS).report == {"cached": True}, "only the name was missing"


# -- full disks --------------------------------------------------------------------------------------------------------


class Disk:
    """A small file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, *, but: int = 0) -> None:
        """Leave room for so many bytes."""
        with self._ballast.open("wb") as file:
            file.write(bytes(max(0, shutil.disk_usage(self.folder).free - but)))
            os.fsync(file.fileno())

    def make_room(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """An ext4 of 8 MB in a file."""
    tools = [shutil.which(name) for name in ("mkfs.ext4", "mount", "umount")]
    if os.name == "nt" or os.geteuid() != 0 or None in tools:
        pytest.skip("only root can mount a small disk, with the tools of ext4")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    image.write_bytes(bytes(8 << 20))
    folder.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("this container cannot mount")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def invoke(recipe: dict[str, Any], tmp_path: Path, *arguments: object) -> Result:
    """`cocktail mix`, with a weight file of a hundredth of a disk each."""
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe))
    words = ["mix", path, "--max-shard-size", SHARD, "--threads", 1, *arguments]
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize("place", ["output", "cache"])
def test_a_disk_that_fills_up_during_the_merge(
    place: str, disk: Disk, tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(mix(recipe, output=tmp_path / "calm", options=OPTIONS).path)
    where = ["-o", disk.folder / "out"] if place == "output" else []
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str((disk.folder if place == "cache" else tmp_path) / "mixes"))
    with monkeypatch.context() as patched:
        after(3, disk.fill, patched)
        done = invoke(recipe, tmp_path, *where)
    assert (done.exit_code, done.stdout) == (1, ""), done.stderr
    assert str(disk.folder) in done.stderr
    assert "bytes free, but the mix needs" in done.stderr
    assert "finished shards are kept" in done.stderr
    kept = finished(disk.folder)
    assert 2 <= len(kept) <= 3
    disk.make_room()
    done = invoke(recipe, tmp_path, *where)
    assert done.exit_code == 0, done.stderr
    assert finished(disk.folder).items() >= kept.items()
    assert contents(Path(done.stdout.strip())) == expected


@pytest.mark.parametrize("step", ["render_card", "write_manifest"])
def test_a_disk_that_fills_up_after_the_merge(
    step: str, disk: Disk, tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "pipeline.mix" if step == "render_card" else "merge.output_folder"
    with monkeypatch.context() as patched:

        def full(*_: object, **__: object) -> None:
            disk.fill()
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(f"cocktail_hub.{module}.{step}", full)
        done = invoke(recipe, tmp_path, "-o", disk.folder / "out")
    assert (done.exit_code, done.stdout) == (1, ""), done.stderr
    expected = (
        "the small files beside the weights need some more" if step == "render_card" else "No space left on device"
    )
    assert expected in done.stderr
    assert str(disk.folder) in done.stderr
    kept = finished(disk.folder)
    assert len(kept) > 5
    disk.make_room()
    assert invoke(recipe, tmp_path, "-o", disk.folder / "out").exit_code == 0
    assert finished(disk.folder) == kept


def test_a_disk_that_is_too_small_for_a_copy(
    disk: Disk, tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke(recipe, tmp_path).exit_code == 0
    with monkeypatch.context() as patched:
        patched.setattr("cocktail_hub.merge.output_folder.require_free_space", lambda _: disk.fill(but=30_000))
        done = invoke(recipe, tmp_path, "-o", disk.folder / "out")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "No space left on device" in done.stderr
    assert len(done.stderr) < 1000, "not a line for every file"
    assert sorted(path.name for path in disk.folder.iterdir()) == ["ballast", "lost+found"]
    disk.make_room()
    assert invoke(recipe, tmp_path, "-o", disk.folder / "out").exit_code == 0


@pytest.mark.parametrize("low_disk", [[], ["--low-disk"]])
def test_a_disk_that_is_too_small_for_what_is_downloaded(
    low_disk: list[str], hub: LoopbackHub, disk: Disk, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    names = [f"acme/harmed-{number}" for number in range(2)]
    for number, name in enumerate(names):
        push(tmp_path / f"m{number}", name)
    recipe = {"ingredients": [{"model": name, "weight": w} for name, w in zip(names, SHARES, strict=True)]}
    where = ["-o", disk.folder / "out", "--cache-dir", disk.folder / "hub", *low_disk]
    disk.fill(but=90_000)
    hub.clear_requests()
    done = invoke(recipe, tmp_path, *where)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "bytes free, but the mix needs" in done.stderr
    assert "The mix would run out of space, so it was not started" in done.stderr
    assert hub.sent("GET /_cdn/") < 150_000, "headers alone"
    disk.make_room()
    done = invoke(recipe, tmp_path, *where)
    assert done.exit_code == 0, done.stderr


@pytest.mark.filterwarnings("ignore:Not enough free disk space:UserWarning")
def test_a_disk_that_fills_up_during_a_download(
    hub: LoopbackHub,
    disk: Disk,
    tmp_path: Path,
    recipe: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    push(tmp_path / "m1", "acme/harmed")
    recipe["ingredients"][1]["model"] = "acme/harmed"
    where = ["-o", tmp_path / "out", "--cache-dir", disk.folder / "hub"]
    with monkeypatch.context() as patched:
        patched.setattr("cocktail_hub.merge.run.require_free_space", lambda _: disk.fill(but=30_000))
        done = invoke(recipe, tmp_path, *where)
    assert (done.exit_code, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert "room" in done.stderr or "space" in done.stderr
    disk.make_room()
    assert invoke(recipe, tmp_path, *where).exit_code == 0
