"""A mix in the cache is complete, whichever process was killed or had to wait."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cocktail_hub.errors import CacheError
from cocktail_hub.storage import cache as module
from cocktail_hub.storage.cache import (
    MANIFEST,
    RECIPE,
    Cache,
    CachedMix,
    cache_errors,
    remove,
    write_manifest,
)
from cocktail_hub.storage.disk import hash_of, sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable

ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)
DAY = 86_400.0


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def fill(folder: Path, size: int = 100) -> None:
    """Write the files of a small mix."""
    (folder / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"\x01" * size)
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / RECIPE).write_text('{"schema": 1}')


def finished(cache: Cache, digest: str, *, size: int = 100, unused_days: float = 0.0) -> CachedMix:
    fill(cache.staging(digest), size)
    mix = cache.finish(digest, {})
    then = time.time() - unused_days * DAY
    os.utime(mix.path / MANIFEST, (then, then))
    return mix


def age(folder: Path, days: float) -> None:
    then = time.time() - days * DAY
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))


def run(code: str, *args: object) -> subprocess.Popen[str]:
    """Another Python process."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output_of(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


# -- folder ---------------------------------------------------------------------------------------------------------


def test_the_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "mine"))
    assert Cache().root == tmp_path / "mine"
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", "~/mine")
    assert Cache().root == Path.home() / "mine"


def test_by_default_the_cache_is_among_the_assets_of_huggingface_hub(tmp_path: Path) -> None:
    code = "from cocktail_hub.storage.cache import Cache; print(Cache().root)"
    environment = {
        key: value for key, value in os.environ.items() if key not in ("COCKTAIL_HUB_CACHE", "HF_ASSETS_CACHE")
    }
    environment["HF_HOME"] = str(tmp_path)
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(tmp_path / "assets" / "cocktail_hub")
    assert not (tmp_path / "assets").exists()  # asking where it would be makes nothing


def test_reading_a_missing_cache_creates_nothing(cache: Cache) -> None:
    assert cache.find(ONE) is None
    assert cache.mixes() == []
    assert cache.leftovers() == []
    assert not cache.root.exists()


def test_importing_the_cache_loads_no_torch_and_no_transformers() -> None:
    code = (
        "import sys, cocktail_hub.storage.cache; print(sorted({'torch', 'transformers', 'numpy'} & sys.modules.keys()))"
    )
    assert output_of(run(code)).strip() == "[]"


# -- finish and find -----------------------------------------------------------------------------------------------


def test_a_finished_mix_is_found_with_all_its_files(cache: Cache) -> None:
    mix = finished(cache, ONE)
    assert mix.path == cache.folder(ONE) == cache.root / "mixes" / ONE
    found = cache.find(ONE)
    assert found == mix
    assert sorted(found.manifest) == ["1_Pooling/config.json", "model.safetensors", "recipe.json"]
    assert found.manifest["model.safetensors"] == {"size": 100, "xxh128": hash_of(mix.path / "model.safetensors")}
    assert found.recipe == {"schema": 1}
    assert found.nbytes == 115 + (mix.path / MANIFEST).stat().st_size
    assert found.damage(thorough=True) == []
    assert cache.leftovers() == []


def test_a_known_hash_is_not_computed_again(cache: Cache) -> None:
    fill(cache.staging(ONE))
    mix = cache.finish(ONE, {"model.safetensors": "f" * 32})
    assert mix.manifest["model.safetensors"]["xxh128"] == "f" * 32
    assert mix.damage(thorough=True) == ["model.safetensors has other content than was written"]


def test_an_early_mix_is_checked_by_its_sha256(cache: Cache) -> None:
    mix = finished(cache, ONE)
    listing = {
        name: {"size": entry["size"], "sha256": sha256_of(mix.path / name)} for name, entry in mix.manifest.items()
    }
    (mix.path / MANIFEST).write_text(json.dumps({"files": listing}))
    found = cache.find(ONE)
    assert found is not None
    assert found.damage(thorough=True) == []
    (mix.path / "model.safetensors").write_bytes(b"x" * 100)
    assert found.damage(thorough=True) == ["model.safetensors has other content than was written"]


def test_a_mix_that_is_made_again_replaces_the_old_one(cache: Cache) -> None:
    finished(cache, ONE, size=10)
    finished(cache, ONE, size=20)
    found = cache.find(ONE)
    assert found is not None
    assert found.manifest["model.safetensors"]["size"] == 20
    assert [path.name for path in (cache.root / "mixes").iterdir()] == [ONE]


def test_a_find_counts_as_a_use(cache: Cache) -> None:
    mix = finished(cache, ONE, unused_days=10)
    assert time.time() - mix.last_used > 9 * DAY
    assert cache.find(ONE) is not None
    assert time.time() - mix.last_used < DAY


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda path: (path / "model.safetensors").write_bytes(b""), "model.safetensors has 0 bytes instead of 100"),
        (lambda path: (path / MANIFEST).unlink(), "No such file"),
        (lambda path: (path / MANIFEST).write_text(""), "cannot be read: Expecting value"),
        (lambda path: (path / MANIFEST).write_text("[]"), "it is not a JSON object"),
        (
            lambda path: (path / MANIFEST).write_text('{"files": {"a": 3}}'),
            "it is not a list of files with size and hash",
        ),
    ],
)
def test_damage_is_noticed_and_the_mix_is_made_again(
    cache: Cache, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None], words: str
) -> None:
    mix = finished(cache, ONE)
    harm(mix.path)
    assert cache.find(ONE) is None
    assert words in caplog.text
    assert mix.path.is_dir(), "a process may be reading it"
    finished(cache, ONE)
    assert cache.find(ONE) is not None


def test_a_thorough_check_notices_other_content_of_the_same_size(cache: Cache) -> None:
    mix = finished(cache, ONE)
    (mix.path / "model.safetensors").write_bytes(b"\x02" * 100)
    assert mix.damage() == []
    assert mix.damage(thorough=True) == ["model.safetensors has other content than was written"]


def test_an_error_about_a_damaged_recipe_names_the_folder(cache: Cache) -> None:
    mix = finished(cache, ONE)
    (mix.path / RECIPE).write_text("{")
    with pytest.raises(CacheError, match=rf"(?s)'recipe.json' of the mix in '.*{ONE}' cannot be read: .*is made again"):
        _ = mix.recipe


def test_the_manifest_of_another_folder_inside_is_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / MANIFEST).write_text("{}")
    write_manifest(tmp_path, {})
    assert list(CachedMix(digest=ONE, path=tmp_path).manifest) == [f"inner/{MANIFEST}"]
    assert CachedMix(digest=ONE, path=tmp_path).max_shard_size is None
    write_manifest(tmp_path, {}, "5GB")
    assert CachedMix(digest=ONE, path=tmp_path).max_shard_size == "5GB"


# -- killed --------------------------------------------------------------------------------------------------------

KILLED = """
    import os, pathlib, signal, sys
    from pathlib import Path
    from cocktail_hub.storage.cache import Cache, MANIFEST

    cache, digest, steps = Cache(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])

    def counted(act):
        def step(*args, **kwargs):
            global steps
            steps -= 1
            if steps < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*args, **kwargs)
        return step

    stage = cache.staging(digest)
    (stage / "model.safetensors").write_bytes(b"1" * 100)
    (stage / "config.json").write_text("{}")
    os.fsync = counted(os.fsync)
    Path.rename = counted(Path.rename)
    Path.replace = counted(Path.replace)
    with cache.locked(digest):
        cache.finish(digest, {})
    print("finished")
"""


@pytest.mark.whole
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_kill_at_any_moment_leaves_a_complete_mix_or_none(cache: Cache, replaced: bool) -> None:
    """Another process finishes a mix and is killed at the n-th step that changes the disk, for every n."""
    for steps in range(100):
        if replaced and cache.find(ONE) is None:
            finished(cache, ONE, size=33)
        process = run(KILLED, cache.root, ONE, steps)
        out, err = process.communicate(timeout=60)
        found = cache.find(ONE)
        assert found is None or found.damage(thorough=True) == []
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
    assert "finished" in out
    assert steps > 4, "there is something to be killed at"
    assert found is not None
    assert found.manifest["model.safetensors"]["size"] == 100
    cache.prune_leftovers(older_than=0.0)
    assert [mix.digest for mix in cache.mixes()] == [ONE]


# -- two processes -------------------------------------------------------------------------------------------------

WORKER = """
    import sys, time
    from pathlib import Path
    from cocktail_hub.storage.cache import Cache

    cache, digest = Cache(Path(sys.argv[1])), sys.argv[2]
    with cache.locked(digest):
        if cache.find(digest):
            print("found")
        else:
            stage = cache.staging(digest)
            time.sleep(0.3)
            (stage / "model.safetensors").write_bytes(b"1")
            cache.finish(digest, {})
            print("made")
"""


@pytest.mark.whole
def test_of_two_processes_that_want_the_same_mix_one_works_and_the_other_waits(cache: Cache) -> None:
    both = [run(WORKER, cache.root, ONE) for _ in range(2)]
    assert sorted(output_of(process).strip() for process in both) == ["found", "made"]


def test_waiting_for_another_process_is_logged(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    code = """
        import sys, time
        from pathlib import Path
        from cocktail_hub.storage.cache import Cache
        with Cache(Path(sys.argv[1])).locked(sys.argv[2]):
            print("locked", flush=True)
            while not Path(sys.argv[3]).exists():
                time.sleep(0.01)
    """
    free = cache.root / "free"
    process = run(code, cache.root, ONE, free)
    assert process.stdout is not None
    process.stdout.readline()

    def release() -> None:
        while "waiting for it" not in caplog.text and waiting.is_alive():
            time.sleep(0.01)
        free.touch()

    waiting = threading.current_thread()
    helper = threading.Thread(target=release)
    helper.start()
    with caplog.at_level("INFO"), cache.locked(ONE):
        pass
    helper.join()
    assert f"Another process is making the mix {ONE[:12]}; waiting for it." in caplog.text
    output_of(process)


def test_different_mixes_do_not_wait_for_each_other(cache: Cache) -> None:
    with cache.locked(ONE), cache.locked(TWO):
        pass


def test_an_error_under_the_lock_is_not_translated(cache: Cache) -> None:
    with pytest.raises(FileNotFoundError, match="mine"), cache.locked(ONE):
        raise FileNotFoundError(errno.ENOENT, "mine")
    with cache.locked(ONE):
        pass


# -- prune ---------------------------------------------------------------------------------------------------------


def test_mixes_are_listed_most_recently_used_first(cache: Cache) -> None:
    for digest, days in ((ONE, 3), (TWO, 1), (THREE, 2)):
        finished(cache, digest, unused_days=days)
    assert [mix.digest for mix in cache.mixes()] == [TWO, THREE, ONE]


def test_a_mix_may_disappear_while_it_is_listed(cache: Cache) -> None:
    mix = CachedMix(digest=ONE, path=cache.folder(ONE))
    assert (mix.last_used, mix.nbytes) == (0.0, 0)


def test_prune_by_age_removes_unused_mixes(cache: Cache) -> None:
    finished(cache, ONE, unused_days=40)
    finished(cache, TWO, unused_days=20)
    gone = cache.prune(older_than=30 * DAY)
    assert [mix.digest for mix in gone] == [ONE]
    assert gone[0].nbytes > 100, "the size is still known"
    assert [mix.digest for mix in cache.mixes()] == [TWO]


def test_prune_by_size_removes_the_least_recently_used_first(cache: Cache) -> None:
    mixes = [finished(cache, digest, size=1000, unused_days=days) for digest, days in ((ONE, 3), (TWO, 1), (THREE, 2))]
    gone = cache.prune(max_bytes=2 * mixes[0].nbytes)
    assert [mix.digest for mix in gone] == [ONE]
    assert gone[0].nbytes == mixes[0].nbytes
    assert [mix.digest for mix in cache.mixes()] == [TWO, THREE]


def test_a_large_mix_does_not_push_out_older_ones_that_fit(cache: Cache) -> None:
    finished(cache, ONE, size=100, unused_days=2)
    finished(cache, TWO, size=100_000, unused_days=1)
    assert [mix.digest for mix in cache.prune(max_bytes=50_000)] == [TWO]


def test_prune_to_nothing_removes_all_mixes_including_damaged_ones(cache: Cache) -> None:
    finished(cache, ONE)
    (finished(cache, TWO).path / MANIFEST).write_text("damaged")
    assert {mix.digest for mix in cache.prune(max_bytes=0)} == {ONE, TWO}
    assert list((cache.root / "mixes").iterdir()) == []


def test_what_no_mix_wrote_is_not_pruned_and_links_are_not_followed(cache: Cache, tmp_path: Path) -> None:
    elsewhere = finished(Cache(tmp_path / "other"), ONE).path
    foreign = cache.root / "mixes" / TWO
    hidden = cache.root / "mixes" / ".hidden"
    for folder in (foreign, hidden):
        folder.mkdir(parents=True)
        (folder / "thesis.tex").write_text("mine")
    (cache.root / "mixes" / ONE).symlink_to(elsewhere)
    (cache.root / "mixes" / f".{THREE}.removed-0123").symlink_to(elsewhere)
    assert cache.prune(max_bytes=0, older_than=-1.0) == []
    assert (foreign / "thesis.tex").is_file()
    assert (hidden / "thesis.tex").is_file()
    assert (elsewhere / "model.safetensors").is_file()


def test_a_mix_in_use_is_not_pruned_until_its_process_ends(cache: Cache) -> None:
    mix = finished(cache, ONE)
    code = """
        import sys
        from pathlib import Path
        from cocktail_hub.storage.cache import Cache

        with Cache(Path(sys.argv[1])).in_use(Path(sys.argv[2])):
            print("using", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(cache.root), str(mix.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "using\n"
        with cache.in_use(mix.path):  # several may
            assert cache.prune(max_bytes=0) == []
        assert cache.prune(max_bytes=0) == []
        process.kill()
        process.wait()
    assert [found.digest for found in cache.prune(max_bytes=0)] == [ONE]
    assert not list((cache.root / "locks").glob("*.use.lock"))


def test_pruning_continues_where_another_process_was_faster(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    for digest, days in ((ONE, 1), (TWO, 2), (THREE, 3)):
        finished(cache, digest, unused_days=days)
    listed = cache.mixes()
    shutil.rmtree(cache.folder(TWO))
    monkeypatch.setattr(Cache, "mixes", lambda _: listed)
    assert [mix.digest for mix in cache.prune(max_bytes=-1)] == [ONE, THREE]
    assert list((cache.root / "mixes").iterdir()) == []


def test_a_locked_mix_is_not_pruned(cache: Cache) -> None:
    finished(cache, ONE, unused_days=5)
    with cache.locked(ONE):
        assert cache.prune(max_bytes=0) == []
    assert [mix.digest for mix in cache.prune(max_bytes=0)] == [ONE]


def test_leftovers_of_an_interrupted_merge_are_kept_for_a_day(cache: Cache) -> None:
    stage = cache.staging(ONE)
    fill(stage)
    assert cache.leftovers() == [stage]
    assert cache.prune_leftovers() == []
    age(stage, 0.9)
    assert cache.prune_leftovers() == []
    age(stage, 1.1)
    assert cache.prune_leftovers() == [stage]
    assert cache.leftovers() == []


def test_one_recent_file_keeps_a_staging_folder(cache: Cache) -> None:
    stage = cache.staging(ONE)
    fill(stage)
    age(stage, 3)
    (stage / "1_Pooling" / "fresh").write_text("")
    assert cache.prune_leftovers() == []


def test_a_staging_folder_whose_lock_is_held_is_never_pruned(cache: Cache) -> None:
    stage = cache.staging(ONE)
    age(stage, 400)
    with cache.locked(ONE):
        assert cache.prune_leftovers(older_than=0.0) == []
    assert cache.prune_leftovers(older_than=0.0) == [stage]


def test_prune_removes_leftovers(cache: Cache) -> None:
    age(cache.staging(ONE), 2)
    age(cache.staging(TWO), 0.5)
    assert cache.prune(max_bytes=10**9) == []
    assert [path.name for path in cache.leftovers()] == [TWO]
    cache.prune(older_than=0.1 * DAY)
    assert cache.leftovers() == []


def test_a_staging_folder_without_a_lock_is_kept_for_a_day_in_any_case(cache: Cache) -> None:
    scratch = cache.staging("scoring-x1")
    assert cache.prune_leftovers(older_than=0.0) == []
    age(scratch, 2)
    assert cache.prune_leftovers(older_than=0.0) == [scratch]


def test_a_half_removed_mix_is_not_a_mix_and_is_pruned_next_time(cache: Cache) -> None:
    half = finished(cache, ONE).path.rename(cache.root / "mixes" / f".{ONE}.removed-0123")
    assert cache.mixes() == []
    assert cache.leftovers() == [half]
    cache.prune(older_than=30 * DAY)
    assert cache.leftovers() == []


# -- disk errors -----------------------------------------------------------------------------------------


def test_an_error_about_a_cache_that_cannot_be_a_folder_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache")
    for act in (lambda: cache.staging(ONE), lambda: cache.locked(ONE).__enter__(), lambda: cache.finish(ONE, {})):
        with pytest.raises(
            CacheError, match=r"(?s)'.*cache' cannot hold the cache: .*Set COCKTAIL_HUB_CACHE to a writable folder"
        ):
            act()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_can_be_read_and_says_why_it_cannot_be_written(cache: Cache) -> None:
    finished(cache, ONE)
    folders = [path for path in (cache.root, *cache.root.rglob("*")) if path.is_dir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert cache.find(ONE) is not None
        with pytest.raises(CacheError, match=r"(?s)cannot be written: .*Set COCKTAIL_HUB_CACHE to a writable folder"):
            cache.staging(TWO)
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            errno.ENOSPC,
            "The disk is too full for the mix in '/c': [Errno 28] No space left on device.\nA mix is as large",
        ),
        (errno.EROFS, "'/c' cannot be written: [Errno 30] Read-only file system.\nFinished mixes are kept there.\nSet"),
        (errno.EACCES, "'/c' cannot be written: [Errno 13] Permission denied."),
        (errno.EIO, "'/c' cannot hold the cache: [Errno 5] Input/output error."),
    ],
)
def test_every_disk_error_says_what_to_do(number: int, words: str) -> None:
    with pytest.raises(CacheError) as caught, cache_errors(Path("/c")):
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(words)
    assert "COCKTAIL_HUB_CACHE" in str(caught.value)


def test_a_disk_without_locks_is_reported() -> None:
    with pytest.raises(CacheError, match="'/c' is on a disk without file locks"), cache_errors(Path("/c")):
        raise NotImplementedError


@pytest.mark.skipif(os.name == "nt", reason="there are no limits on the size of files on Windows")
def test_a_disk_that_fills_up_while_the_mix_is_finished_loses_nothing(cache: Cache) -> None:
    """The system refuses files of more than 50 bytes, as a full disk would."""
    fill(cache.staging(ONE))
    code = """
        import resource, sys
        from pathlib import Path
        from cocktail_hub.storage.cache import Cache
        from cocktail_hub.errors import CacheError
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50))
        try:
            Cache(Path(sys.argv[1])).finish(sys.argv[2], {})
        except CacheError as error:
            print(error)
    """
    assert output_of(run(code, cache.root, ONE)).startswith(f"The disk is too full for the mix in '{cache.root}'")
    assert cache.find(ONE) is None
    assert (cache.staging(ONE) / "model.safetensors").stat().st_size == 100
    assert cache.finish(ONE, {}).damage(thorough=True) == []


def test_a_folder_that_cannot_be_removed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(CacheError, match=r"(?s)Cannot remove '.*none': .*Permission denied.*Another program may be"):
        remove(tmp_path / "none")


def test_a_folder_that_is_gone_already_needs_no_removal(tmp_path: Path) -> None:
    (tmp_path / "mix").mkdir()
    assert remove(tmp_path / "mix")
    assert not remove(tmp_path / "mix")
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_is_plain_json_for_other_tools(cache: Cache) -> None:
    mix = finished(cache, ONE)
    manifest = json.loads((mix.path / MANIFEST).read_text())
    assert list(manifest) == ["files"]
    assert module.MANIFEST == ".cocktail.json"


def refusing(code: int) -> Callable[[int], None]:
    """An fsync that refuses folders."""
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        sync(descriptor)

    return fsync


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_holds_a_cache(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "fsync", refusing(code))
    assert finished(cache, ONE).damage(thorough=True) == []


@pytest.mark.skipif(os.name == "nt", reason="folders are not synced on Windows")
def test_a_disk_that_fails_to_sync_a_folder_is_reported(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    with pytest.raises(CacheError, match="cannot hold the cache"):
        finished(cache, ONE)
