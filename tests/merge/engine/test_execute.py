"""The promises of a merge, bit for bit, on files."""

from __future__ import annotations

import errno
import json
import os
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from merge_helpers import (
    Tensors,
    component,
    digests,
    load,
    merged,
    mix,
    model,
    names,
    opened,
    plan,
    save,
    save_all,
)
from safetensors import safe_open

from cocktail_hub.errors import CheckpointError, DiskSpaceError, IncompatibleError, SourceError
from cocktail_hub.merge.engine import execute as execute_module
from cocktail_hub.merge.engine.execute import execute
from cocktail_hub.merge.engine.writer import ShardWriter
from cocktail_hub.merge.options import COUNTING_BYTES, SEARCH_BYTES
from cocktail_hub.merge.plan import plan_merge
from cocktail_hub.storage.disk import hash_of

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.checkpoint.reader import SafetensorsReader

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def every_bit_pattern(dtype: torch.dtype) -> torch.Tensor:
    """All values of a 16-bit type, NaN with every payload included; a spread of those of float32."""
    unsigned, step = (torch.uint16, 1) if dtype.itemsize == 2 else (torch.uint32, 65_521)
    return torch.arange(0, 2 ** (8 * dtype.itemsize), step, dtype=torch.int64).to(unsigned).view(dtype)


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype
        and a[name].shape == b[name].shape
        and torch.equal(a[name].flatten().view(torch.uint8), b[name].flatten().view(torch.uint8))
        for name in a
    )


# identities


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weights", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
def test_weight_one_gives_that_model_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype, weights: list[float]) -> None:
    models = [model(seed, dtype) | {"all": every_bit_pattern(dtype).roll(seed)} for seed in range(3)]
    folders = save_all(tmp_path, models)
    mix(folders, tmp_path / "out", weights=weights)
    assert same(load(tmp_path / "out"), models[weights.index(1.0)])


def test_the_whole_file_is_the_ingredients_file(tmp_path: Path) -> None:
    """Layout, names and metadata are those of the first ingredient's file."""
    folders = save_all(tmp_path, [model(0), model(1)])
    mix(folders, tmp_path / "out", weights=[1.0, 0.0])
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    ours, theirs = ((folder / "model.safetensors").read_bytes() for folder in (tmp_path / "out", folders[0]))
    data = plan(folders, weights=[1.0, 0.0]).shards[0].data_bytes
    assert ours[-data:] == theirs[-data:]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weights", [[0.7, 0.3], [0.1, 0.2, 0.7], [1 / 3] * 3])
def test_a_model_mixed_with_itself_is_itself_bit_for_bit(
    tmp_path: Path, dtype: torch.dtype, weights: list[float]
) -> None:
    one = model(0, dtype) | {"all": every_bit_pattern(dtype)}
    folder = save(tmp_path / "m", one)
    mix([folder] * len(weights), tmp_path / "out", weights=weights)
    assert same(load(tmp_path / "out"), one)


# the engine against the definition

METHOD_OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("linear", {"weights": [0.2, 0.3, 0.5]}),
    ("task_arithmetic", {"weights": [0.5, 0.7], "parameters": {"lambda": 0.4}}),
    ("ties", {"weights": [1.0, 1.0]}),
    ("ties", {"weights": [1.0, 2.0], "parameters": {"density": 0.7, "lambda": 1.5}}),
    ("ties", {"weights": [1.0, 0.5], "parameters": {"density": 1.0}}),
]


def _expected(method: str, models: list[Tensors], options: dict[str, Any], dtype: torch.dtype | None = None) -> Tensors:
    given_parameters = {key.replace("lambda", "lam"): value for key, value in options.get("parameters", {}).items()}
    first = models[0] if method == "linear" else models[1]
    return {
        name: merged([m[name] for m in models], options["weights"], method, dtype=dtype, **given_parameters)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }


@pytest.mark.whole
@pytest.mark.parametrize("dtype", [*FLOATS, torch.float64])
@pytest.mark.parametrize(("method", "options"), METHOD_OPTIONS)
@pytest.mark.parametrize("running", [(1, None), (3, None), (2, "least")])
def test_files_hold_what_the_method_defines(
    tmp_path: Path, dtype: torch.dtype, method: str, options: dict[str, Any], running: Any
) -> None:
    threads, memory = running
    models = [model(seed, dtype) for seed in range(3)]
    folders = save_all(tmp_path, models)
    least = {"ties": 2 * (1 << 18) + 2 * (2 * SEARCH_BYTES + COUNTING_BYTES)}.get(method, 2 << 18) if memory else None
    mix(folders, tmp_path / "out", method=method, threads=threads, max_memory=least, **options)
    assert same(load(tmp_path / "out"), _expected(method, models, options))


@pytest.mark.whole
@pytest.mark.parametrize(("method", "options"), METHOD_OPTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_mixtures_of_dtypes_are_added_in_the_widest_and_rounded_once(
    tmp_path: Path, method: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    kinds = [torch.float32, torch.bfloat16, torch.float16]
    models = [model(seed, kind) for seed, kind in enumerate(kinds)]
    folders = save_all(tmp_path, models)
    mix(folders, tmp_path / "out", method=method, dtype=str(dtype), **options)
    assert same(load(tmp_path / "out"), _expected(method, models, options, dtype))


def test_a_tensor_larger_than_the_buffers_is_searched_in_chunks(tmp_path: Path) -> None:
    models = [{"x": model(seed, scale=0.1)["embed"].repeat(12, 3)} for seed in range(3)]
    models[0]["x"] = models[0]["x"] * 0.99
    folders = save_all(tmp_path, models)
    options = {"weights": [1.0, 1.0], "parameters": {"density": 0.3}}
    memory = (1 << 18) + 2 * SEARCH_BYTES + COUNTING_BYTES
    report = mix(folders, tmp_path / "out", method="ties", threads=1, max_memory=memory, **options)
    assert report.bytes_read > 2 * plan(folders, method="ties", **options).input_bytes
    assert same(load(tmp_path / "out"), _expected("ties", models, options))


# same bytes


@given(
    data=st.data(),
    dtype=st.sampled_from(FLOATS),
    running=st.fixed_dictionaries({"threads": st.integers(1, 3), "max_memory": st.sampled_from([1 << 20, None])}),
    size=st.sampled_from([1, 40, 10**9]),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.slow
def test_any_floats_are_mixed_as_defined(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    dtype: torch.dtype,
    running: dict[str, Any],
    size: int,
) -> None:
    """Every bit pattern may come, NaN, infinities, subnormals and zeros of both signs among them."""
    tmp_path = tmp_path_factory.mktemp("mix")
    limit = 2 ** (8 * dtype.itemsize) - 1
    unsigned = torch.uint16 if dtype.itemsize == 2 else torch.uint32
    shapes = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    values = st.integers(0, limit)

    def tensor(count: int) -> torch.Tensor:
        patterns = data.draw(st.lists(values, min_size=count, max_size=count))
        return torch.tensor(patterns, dtype=torch.int64).to(unsigned).view(dtype)

    models = [{f"t{i}": tensor(count) for i, count in enumerate(shapes)} for _ in range(2)]
    folders = save_all(tmp_path, models)
    options = {"weights": [0.7, 0.3]}
    sums = {name: 0.7 * models[0][name].double() + 0.3 * models[1][name].double() for name in models[0]}
    if any((sums[name].isnan() & ~_agree(*(found[name] for found in models))).any() for name in sums):
        with pytest.raises(IncompatibleError, match=r"holds NaN|Infinities that cancel"):
            mix(folders, tmp_path / "out", max_shard_size=size, **running, **options)
        return
    expected = _expected("linear", models, options)
    mix(folders, tmp_path / "out", max_shard_size=size, **running, **options)
    assert same(load(tmp_path / "out"), expected)


def _agree(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    return (one == two) | (one.isnan() & two.isnan())


# files, report, progress


def test_the_folder_holds_the_weights_and_nothing_else(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    mix(folders, tmp_path / "out", weights=[0.5, 0.5])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_shards_come_with_an_index_that_transformers_reads(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    report = mix(folders, tmp_path / "out", weights=[0.5, 0.5], max_shard_size=5000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == model(0).keys()
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "out" / file, "pt") as shard:
            assert name in shard.keys()  # noqa: SIM118 - safe_open is no mapping
    assert set(report.digests) == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in model(0).values())


def test_the_report_counts_bytes_and_knows_digests(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    made = plan(folders, weights=[0.5, 0.5], max_shard_size=5000)
    report = mix(folders, tmp_path / "out", weights=[0.5, 0.5], max_shard_size=5000, threads=2)
    assert report.bytes_read == made.input_bytes
    assert report.bytes_written == made.output_bytes
    assert report.threads == 2
    for path, digest in report.digests.items():
        assert hash_of(tmp_path / "out" / path) == digest


def test_no_worker_is_started_where_every_shard_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    made = plan(folders, weights=[0.5, 0.5])
    with ExitStack() as stack:
        sources = [opened(stack, folders)]
        first = execute(made, sources, tmp_path / "out", keep_journal=True)
        monkeypatch.setattr(execute_module, "make_workers", None)
        again = execute(made, sources, tmp_path / "out")
    assert (again.threads, again.bytes_read, again.bytes_written) == (0, 0, 0)
    assert again.digests == first.digests


def test_other_work_is_done_while_the_last_shard_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may begin before the last shard has its name; all others have theirs by then."""
    begun, found = threading.Event(), list[list[str]]()
    published = ShardWriter.publish

    def publish(writer: ShardWriter) -> None:
        if writer.path.name.startswith("model-00002-of-00002"):
            assert begun.wait(60)
        published(writer)

    def other_work() -> None:
        found.append(sorted(path.name for path in (tmp_path / "out").iterdir() if path.name.endswith(".safetensors")))
        begun.set()

    monkeypatch.setattr(ShardWriter, "publish", publish)
    folders = save_all(tmp_path, [model(0), model(1)])
    report = mix(folders, tmp_path / "out", weights=[0.5, 0.5], max_shard_size=5000, meanwhile=other_work)
    assert found == [["model-00001-of-00002.safetensors"]]
    assert sorted(report.digests) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def test_other_work_is_done_where_every_shard_is_finished(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    made = plan(folders, weights=[0.5, 0.5])
    done: list[str] = []
    with ExitStack() as stack:
        sources = [opened(stack, folders)]
        for turn in ("first", "again"):
            execute(made, sources, tmp_path / "out", keep_journal=True, meanwhile=lambda turn=turn: done.append(turn))  # type: ignore[misc]
    assert done == ["first", "again"]


def test_other_work_that_fails_leaves_the_finished_shards(tmp_path: Path) -> None:
    def fail() -> None:
        raise SourceError("no card")

    folders = save_all(tmp_path, [model(0), model(1)])
    with pytest.raises(SourceError, match="no card"):
        mix(folders, tmp_path / "out", weights=[0.5, 0.5], max_shard_size=5000, meanwhile=fail)
    again = mix(folders, tmp_path / "out", weights=[0.5, 0.5], max_shard_size=5000)
    assert again.bytes_read == 0


def test_an_error_of_a_shard_is_raised_before_one_of_other_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: ShardWriter) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    def other_work() -> None:
        raise SourceError("no card")

    monkeypatch.setattr(ShardWriter, "seal", fail)
    folders = save_all(tmp_path, [model(0), model(1)])
    with pytest.raises(DiskSpaceError, match=r"but the mix needs [0-9,]+ more"):
        mix(folders, tmp_path / "out", weights=[0.5, 0.5], meanwhile=other_work)


def test_shards_are_uploaded_once_and_none_is_kept(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    options: dict[str, Any] = {"weights": [0.5, 0.5], "max_shard_size": 3000}
    mix(folders, tmp_path / "kept", **options)
    expected = {path: hash_of(tmp_path / "kept" / path, "sha256") for path in digests(tmp_path / "kept")}
    del expected["model.safetensors.index.json"]
    made, found, seen = plan(folders, **options), dict[str, str](), list[int]()
    out = tmp_path / "out"

    def upload(path: str, file: Path, sha256: str) -> None:
        if len(found) == 2 and len(seen) == 3:
            raise SourceError("no network")
        assert sorted(out.glob("*.safetensors")) == [file]  # there may be room for one shard only
        assert hash_of(file, "sha256") == sha256
        found[path] = sha256

    with ExitStack() as stack:
        sources = [opened(stack, folders)]
        with pytest.raises(SourceError, match="no network"):
            execute(made, sources, out, upload=upload, on_progress=seen.append, keep_journal=True)
        assert len(found) == 2
        seen.clear()
        report = execute(made, sources, out, upload=upload, on_progress=seen.append, keep_journal=True)
        again = execute(made, sources, out, upload=upload)
    assert found == report.digests == again.digests == expected
    assert sum(seen) == made.output_bytes
    assert report.bytes_written < made.output_bytes - sum(seen[:1])  # one waited to be uploaded
    assert (again.threads, again.bytes_written, list(out.iterdir())) == (0, 0, [])


def test_progress_adds_up_to_the_output(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    seen: list[int] = []
    mix(folders, tmp_path / "out", weights=[0.5, 0.5], max_shard_size=5000, threads=3, on_progress=seen.append)
    assert sum(seen) == plan(folders, weights=[0.5, 0.5], max_shard_size=5000).output_bytes


def test_components_are_written_to_their_folders(tmp_path: Path) -> None:
    folders = [save(tmp_path / f"m{i}", model(i)) for i in range(2)]
    for index, folder in enumerate(folders):
        save(folder / "2_Dense", {"linear.weight": torch.full((4, 4), float(index))})
    parts = [component(folders), component(folders, "2_Dense")]
    made = plan_merge(parts, weights=[0.25, 0.75])
    with ExitStack() as stack:
        sources = [opened(stack, folders), opened(stack, folders, "2_Dense")]
        report = execute(made, sources, tmp_path / "out")
    assert load(tmp_path / "out" / "2_Dense")["linear.weight"].tolist() == [[0.75] * 4] * 4
    assert set(report.digests) == {"model.safetensors", "2_Dense/model.safetensors"}


def test_a_model_without_any_tensor_is_written(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [{}, {}])
    mix(folders, tmp_path / "out", weights=[0.5, 0.5])
    assert load(tmp_path / "out") == {}


# what goes wrong


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.suffix in (".incomplete", ".safetensors")]


def test_integers_that_differ_name_the_tensor_and_the_model(tmp_path: Path) -> None:
    other = model(1) | {"position_ids": torch.arange(1, 13)}
    folders = save_all(tmp_path, [model(0), model(2), other])
    with pytest.raises(IncompatibleError, match="the integers of 'position_ids' differ from those of 'm0'") as caught:
        mix(folders, tmp_path / "out", weights=[0.5, 0.3, 0.2])
    assert (caught.value.model, caught.value.tensor) == ("m2", "position_ids")
    assert leftovers(tmp_path / "out") == []


def test_the_tensor_that_differs_is_found_among_adjacent_ones(tmp_path: Path) -> None:
    first = {f"ids{i}": torch.arange(i + 1) for i in range(9)}
    second = first | {"ids6": torch.arange(7).flip(0)}
    folders = save_all(tmp_path, [first, second])
    with pytest.raises(IncompatibleError, match="'ids6'"):
        mix(folders, tmp_path / "out", weights=[0.5, 0.5])


def test_a_file_cut_short_under_the_merge_is_an_error(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    made = plan(folders, weights=[0.5, 0.5])
    with ExitStack() as stack:
        sources = opened(stack, folders)
        os.truncate(folders[1] / "model.safetensors", 3000)
        with pytest.raises(CheckpointError, match=r"'model.safetensors' of 'm1' ends at byte 3000, but"):
            execute(made, [sources], tmp_path / "out")
    assert leftovers(tmp_path / "out") == []


def test_a_file_changed_under_the_merge_is_an_error(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    made = plan(folders, weights=[0.5, 0.5])
    path = folders[1] / "model.safetensors"
    os.utime(path, ns=(1, 1))

    def touch(_: int) -> None:
        os.utime(path, ns=(2, 2))

    with ExitStack() as stack:
        sources = opened(stack, folders)
        with pytest.raises(CheckpointError, match=r"'model.safetensors' of 'm1' changed while it was being mixed"):
            execute(made, [sources], tmp_path / "out", on_progress=touch)
    assert leftovers(tmp_path / "out") == []


def test_other_models_than_planned_for_are_refused(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    made = plan(folders, weights=[0.5, 0.5])
    save_all(tmp_path, [model(0), model(1) | {"scale": torch.zeros(2).bfloat16()}])
    with ExitStack() as stack:
        sources = opened(stack, folders)
        with pytest.raises(CheckpointError, match="'scale' of 'm1' is not what was planned for"):
            execute(made, [sources], tmp_path / "out")


def test_a_shard_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(writer: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    folders = save_all(tmp_path, [model(0), model(1)])
    monkeypatch.setattr(ShardWriter, "seal", full)
    with pytest.raises(DiskSpaceError):
        mix(folders, tmp_path / "out", weights=[0.7, 0.3])
    assert leftovers(tmp_path / "out") == []


def test_an_error_in_a_thread_is_raised_as_it_is(tmp_path: Path) -> None:
    def fail(_: int) -> None:
        raise ZeroDivisionError("from a callback")

    folders = save_all(tmp_path, [model(0), model(1)])
    with pytest.raises(ZeroDivisionError, match="from a callback"):
        mix(folders, tmp_path / "out", weights=[0.5, 0.5], on_progress=fail, threads=2)
    assert leftovers(tmp_path / "out") == []


def test_the_callers_torch_settings_are_kept(tmp_path: Path) -> None:
    folders = save_all(tmp_path, [model(0), model(1)])
    before = torch.get_num_threads()
    torch.set_flush_denormal(True)
    try:
        mix(folders, tmp_path / "out", weights=[0.5, 0.5])
        assert torch.tensor([1e-40]).mul(1.0).item() == 0.0  # still flushed here
    finally:
        torch.set_flush_denormal(False)
    assert torch.get_num_threads() == before


def test_a_flushing_caller_gets_the_same_bytes(tmp_path: Path) -> None:
    tiny = {"x": torch.full((64,), 1e-40)}
    folders = save_all(tmp_path, [tiny, tiny])
    torch.set_flush_denormal(True)
    try:
        mix(folders, tmp_path / "out", weights=[0.5, 0.5], dtype="float32")
    finally:
        torch.set_flush_denormal(False)
    assert same(load(tmp_path / "out"), tiny)


def test_a_reader_needs_no_more_than_read(tmp_path: Path) -> None:
    class Plain:
        def __init__(self, source: SafetensorsReader) -> None:
            self.name, self.specs, self._source = source.name, source.specs, source

        def read(self, tensor: str, start: int, stop: int, out: torch.Tensor) -> None:
            self._source.read(tensor, start, stop, out)

        def close(self) -> None: ...

    models = [model(0), model(1)]
    folders = save_all(tmp_path, models)
    with ExitStack() as stack:
        sources = [Plain(source) for source in opened(stack, folders)]
        execute(plan(folders, weights=[0.5, 0.5]), [sources], tmp_path / "out")
    assert names(folders) == ("m0", "m1")
    assert same(load(tmp_path / "out"), _expected("linear", models, {"weights": [0.5, 0.5]}))
