"""From a recipe to the folder of a mix: the same bytes every time, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import models
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from cocktail_hub import Mix, MixOptions, Recipe, mix
from cocktail_hub.errors import (
    CacheError,
    CheckpointError,
    DiskSpaceError,
    IncompatibleError,
    MergeError,
    RecipeError,
)
from cocktail_hub.merge.engine.on_ray import ATTEMPTS
from cocktail_hub.merge.output_folder import OutputFolder
from cocktail_hub.pipeline.mix import check_and_weigh, prepare
from cocktail_hub.resolve.source import load_recipe_source
from cocktail_hub.storage.cache import MANIFEST, Cache

if TYPE_CHECKING:
    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole
WEIGHTS = (0.3, 0.7)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def recipe_of(folders: list[Path], weights: tuple[float, ...] = WEIGHTS, **keys: object) -> dict:
    pairs = zip(folders, weights, strict=True)
    return {"ingredients": [{"model": str(folder), "weight": weight} for folder, weight in pairs], **keys}


def copies(folder: Path, dtype: str) -> list[Path]:
    """The pair of BERTs in another precision."""
    found = []
    for source in models.pair("bert").folders:
        target = folder / f"{source.name}-{dtype}"
        target.mkdir(parents=True)
        for path in source.iterdir():
            (target / path.name).write_bytes(path.read_bytes())
        tensors = {name: tensor.to(DTYPES[dtype]) for name, tensor in load_file(source / "model.safetensors").items()}
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
        found.append(target)
    return found


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(bits(one[name]) == bits(other[name]) for name in one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weight_one_gives_that_ingredient_back_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    folders = copies(tmp_path, dtype)
    for index, weights in enumerate([(1.0, 0.0), (0.0, 1.0)]):
        made = mix(recipe_of(folders, weights), output=tmp_path / f"mix{index}")
        assert same_bits(weights_in(made.path), weights_in(folders[index]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_mixed_with_itself_is_itself_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    folder = copies(tmp_path, dtype)[0]
    made = mix(recipe_of([folder] * 3, (0.2, 0.3, 0.5)), output=tmp_path / "mix")
    assert same_bits(weights_in(made.path), weights_in(folder))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_value_is_the_weighted_sum_rounded_once(tmp_path: Path, dtype: str) -> None:
    folders = copies(tmp_path, dtype)
    made = weights_in(mix(recipe_of(folders), output=tmp_path / "mix").path)
    wider = torch.float64 if dtype == "float32" else torch.float32
    first, second = (weights_in(folder) for folder in folders)
    for name, tensor in made.items():
        expected = first[name].to(wider) * WEIGHTS[0] + second[name].to(wider) * WEIGHTS[1]
        assert bits(tensor) == bits(expected.to(DTYPES[dtype])), name


def test_threads_and_shard_sizes_do_not_change_a_bit(tmp_path: Path) -> None:
    recipe = recipe_of(list(models.pair("llama").folders))
    one = mix(recipe, output=tmp_path / "one", options=MixOptions(threads=1))
    two = mix(recipe, output=tmp_path / "two", options=MixOptions(threads=2))
    cut = mix(recipe, output=tmp_path / "cut", options=MixOptions(max_shard_size=4000))
    assert (one.path / "model.safetensors").read_bytes() == (two.path / "model.safetensors").read_bytes()
    assert len(list(cut.path.glob("model-*.safetensors"))) > 1
    assert same_bits(weights_in(one.path), weights_in(cut.path))


@pytest.mark.parametrize(("size", "nbytes"), [("4KiB", 4096), ("1 mib", 2**20), ("1GiB", 2**30), ("10", 10)])
def test_every_way_to_write_a_size_cuts_as_its_bytes_do(tmp_path: Path, size: int | str, nbytes: int) -> None:
    recipe = recipe_of(list(models.pair("llama").folders))
    made = mix(recipe, output=tmp_path / "text", options=MixOptions(max_shard_size=size))
    same = mix(recipe, output=tmp_path / "bytes", options=MixOptions(max_shard_size=nbytes))
    files = {path.name: path.read_bytes() for path in made.path.glob("*.safetensors*")}
    assert files == {path.name: path.read_bytes() for path in same.path.glob("*.safetensors*")}
    assert json.loads((made.path / MANIFEST).read_text())["max_shard_size"] == size
    assert mix(recipe, output=tmp_path / "text", options=MixOptions(max_shard_size=nbytes)).report["cached"]


def test_a_sharded_mix_has_an_index_that_names_every_tensor(tmp_path: Path) -> None:
    recipe = recipe_of(list(models.pair("llama").folders))
    made = mix(recipe, output=tmp_path / "cut", options=MixOptions(max_shard_size=4000))
    index = json.loads((made.path / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == weights_in(made.path).keys()
    assert made.load().num_parameters() > 0


HASHED = """
import sys
from cocktail_hub import mix
made = mix(sys.argv[1], output=sys.argv[2])
print(made.recipe.digest)
"""


def test_the_hash_seed_of_python_does_not_change_a_byte(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(recipe_of(list(models.pair("bert").folders))))
    digests = set()
    for seed in ("0", "1"):
        output = tmp_path / f"mix{seed}"
        done = subprocess.run(
            [sys.executable, "-c", HASHED, str(recipe), str(output)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        files = sorted(path for path in output.rglob("*") if path.is_file())
        content = b"".join(path.read_bytes() for path in files if path.name != MANIFEST)
        digests.add((done.stdout, hashlib.sha256(content).hexdigest()))
    assert len(digests) == 1


def test_the_second_mix_is_found_and_nothing_is_done(hub: LoopbackHub, token: str) -> None:
    pair = models.published("bert")
    recipe = {"ingredients": [{"model": m, "weight": w} for m, w in zip(pair.ids, (0.11, 0.89), strict=True)]}
    first = mix(recipe, token=token)
    hub.clear_requests()
    second = mix(first.recipe, token=token)
    assert not first.report["cached"]
    assert second.report["cached"]
    assert second.path == first.path
    assert hub.requests == []  # every model is pinned, so there is nothing to ask


def test_one_process_works_and_the_other_waits_and_uses_it(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(recipe_of(list(models.pair("bert").folders), (0.77, 0.23))))
    script = "import sys, cocktail_hub; print(cocktail_hub.mix(sys.argv[1]).report['cached'])"
    command = [sys.executable, "-c", script, str(recipe)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(process.communicate()[0].strip() for process in running) == ["False", "True"]


def test_an_output_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(CacheError, match=r"is not only an earlier mix: thesis\.txt"):
        mix(recipe_of(list(models.pair("bert").folders)), output=tmp_path / "mine", options=MixOptions(replace=True))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_an_earlier_mix_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folders = list(models.pair("bert").folders)
    mix(recipe_of(folders), output=tmp_path / "out")
    with pytest.raises(CacheError, match="exists and is not empty"):
        mix(recipe_of(folders, (0.6, 0.4)), output=tmp_path / "out")
    made = mix(recipe_of(folders, (0.6, 0.4)), output=tmp_path / "out", options=MixOptions(replace=True))
    assert made.recipe.weights == (0.6, 0.4)
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["ingredients"][0]["weight"] == 0.6
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_run_on_a_cluster_left_is_no_part_of_the_mix(tmp_path: Path) -> None:
    """Its unfinished files lie in the working folder that the next run, on threads, goes on in."""
    folders = list(models.pair("bert").folders)
    options = MixOptions()
    origin = load_recipe_source(recipe_of(folders), options.hub)
    _, resolved = check_and_weigh(prepare(origin, options))
    left = OutputFolder(options=options, output=tmp_path / "out").stage_path(resolved) / ATTEMPTS / "77-ab"
    left.mkdir(parents=True)
    (left / "model.safetensors.incomplete").write_bytes(b"half of it")
    made = mix(recipe_of(folders), output=tmp_path / "out")
    assert not [path for path in made.path.rglob("*") if "incomplete" in path.name or path.name == ATTEMPTS]
    assert not [name for name in json.loads((made.path / MANIFEST).read_text())["files"] if ATTEMPTS in name]


def test_an_earlier_mix_stays_when_the_next_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = list(models.pair("bert").folders)
    mix(recipe_of(folders), output=tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    mix(recipe_of(folders, (0.55, 0.45)))  # in the cache: it will only be copied
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DiskSpaceError, match="bytes for the copy"):
        mix(recipe_of(folders, (0.55, 0.45)), output=tmp_path / "out", options=MixOptions(replace=True))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    monkeypatch.undo()
    mix(recipe_of(folders, (0.55, 0.45)), output=tmp_path / "out", options=MixOptions(replace=True))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() != before


def test_layers_that_match_nothing_are_refused_with_a_name_that_is_there(tmp_path: Path) -> None:
    layers = [
        {"match": r"encoder\.layer\..*", "weights": [0.5, 0.5]},
        {"match": "pooler.weights", "weights": [0.5, 0.5]},
    ]
    with pytest.raises(RecipeError) as caught:
        mix(recipe_of(list(models.pair("bert").folders), layers=layers), output=tmp_path / "out")
    assert str(caught.value) == (
        "`layers[1]` matches 'pooler.weights', but the mix has no tensor of such a name.\n"
        "Its weights would be silently ignored. A pattern is a regular expression over the whole name, such as "
        "'encoder\\.layer\\.0\\..*'.\n"
        "Correct or remove it; a tensor here is called 'pooler.dense.weight'."
    )


def test_weights_by_rules_are_those_of_layers(tmp_path: Path) -> None:
    folders = list(models.pair("bert").folders)
    by_layers = recipe_of(folders, layers=[{"match": r"embeddings\..*", "weights": [1.0, 0.0]}])
    by_rules = recipe_of(folders)
    for ingredient, kept in zip(by_rules["ingredients"], (1, 0), strict=True):
        ingredient["weight"] = [{"match": "embeddings.*", "value": kept}, {"value": ingredient["weight"]}]
    made = [mix(recipe, output=tmp_path / str(i)).path for i, recipe in enumerate((by_layers, by_rules))]
    assert same_bits(*map(weights_in, made))


def test_what_is_kept_is_one_models_bit_for_bit(tmp_path: Path) -> None:
    folders = list(models.pair("bert").folders)
    keep = ["embeddings.*", {"match": "pooler.*", "model": str(folders[1])}]
    made = weights_in(mix(recipe_of(folders, keep=keep), output=tmp_path / "out").path)
    plain = weights_in(mix(recipe_of(folders), output=tmp_path / "plain").path)
    first, second = map(weights_in, folders)
    for name, tensor in made.items():
        expected = first if name.startswith("embeddings.") else second if name.startswith("pooler.") else plain
        assert bits(tensor) == bits(expected[name])


def test_a_pattern_that_matches_nothing_is_refused_with_a_name_that_is_there(tmp_path: Path) -> None:
    mixed = recipe_of(list(models.pair("bert").folders))
    mixed["ingredients"][0]["weight"] = [{"match": "pooler.weights", "value": 1.0}, {"value": 0.5}]
    with pytest.raises(RecipeError) as caught:
        mix(mixed, output=tmp_path / "out")
    assert str(caught.value).startswith("`weight of '")
    assert (
        "Its numbers would be silently ignored. A pattern is a glob such as 'mlp.*', or `regex:` and a regular "
        "expression over the whole name.\nCorrect or remove it; a tensor here is called 'pooler.dense.weight'."
    ) in str(caught.value)


def test_work_that_goes_on_beside_a_finished_folder_is_told_by_its_own_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    recipe, out, options = recipe_of(list(models.pair("bert").folders)), tmp_path / "out", MixOptions()
    origin = load_recipe_source(recipe, options.hub)
    _, resolved = check_and_weigh(prepare(origin, options))
    place = OutputFolder(options=options, output=out)
    work = place.stage_path(resolved)
    work.mkdir()
    (work / "model-00001-of-00002.safetensors").write_bytes(b"half")
    with place.locked(resolved):  # as a process that works in it
        mix(recipe, output=out, options=MixOptions(max_shard_size=40_000))
        assert work.is_dir()
    mix(recipe, output=out, options=MixOptions(replace=True))
    assert not work.exists()


def test_the_same_mix_in_other_weight_files_is_made_where_they_are_asked_for(tmp_path: Path) -> None:
    recipe = recipe_of(list(models.pair("llama").folders))
    mix(recipe, output=tmp_path / "out")
    assert mix(recipe, output=tmp_path / "out", options=MixOptions(max_shard_size="4GB")).report["cached"]
    with pytest.raises(CacheError, match="exists and is not empty"):
        mix(recipe, output=tmp_path / "out", options=MixOptions(max_shard_size=4000))
    small = MixOptions(max_shard_size=4000, replace=True)
    cut = mix(recipe, output=tmp_path / "out", options=small)
    assert len(list(cut.path.glob("model-*.safetensors"))) > 1
    assert mix(recipe, output=tmp_path / "out", options=small).report["cached"]
    whole = mix(recipe, output=tmp_path / "out", options=MixOptions(replace=True))
    assert len(list(whole.path.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("values", [(1.0, float("nan")), (float("inf"), float("-inf"))])
def test_models_that_cannot_be_mixed_leave_no_finished_files(tmp_path: Path, values: tuple[float, float]) -> None:
    folders = copies(tmp_path, "float32")
    for folder, value in zip(folders, values, strict=True):
        tensors = load_file(folder / "model.safetensors")
        tensors["pooler.dense.weight"][0, 0] = value  # in the last file
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(IncompatibleError, match=r"pooler\.dense\.weight"):
        mix(recipe_of(folders), output=tmp_path / "out", options=MixOptions(max_shard_size=4000, threads=1))
    assert sorted(tmp_path.iterdir()) == before


def test_a_recipe_that_names_branches_asks_once_per_model(hub: LoopbackHub, token: str) -> None:
    pair = models.published("bert")
    recipe = {"ingredients": [{"model": m, "weight": w} for m, w in zip(pair.ids, (0.13, 0.87), strict=True)]}
    mix(recipe, token=token)
    hub.clear_requests()
    assert mix(recipe, token=token).report["cached"]
    asked = sorted(request.path.split("?")[0] for request in hub.requests)
    assert asked == [f"/api/models/{m}" for m in sorted(pair.ids)]


def test_the_same_mix_in_the_output_folder_is_used_as_it_is(tmp_path: Path) -> None:
    recipe = recipe_of(list(models.pair("bert").folders))
    mix(recipe, output=tmp_path / "out")
    assert mix(recipe, output=tmp_path / "out").report["cached"]


def test_a_damaged_mix_in_the_cache_is_made_again() -> None:
    recipe = recipe_of(list(models.pair("bert").folders), (0.45, 0.55))
    first = mix(recipe)
    before = (first.path / "model.safetensors").read_bytes()
    (first.path / "model.safetensors").write_bytes(before[:-1])
    again = mix(recipe)
    assert not again.report["cached"]
    assert (again.path / "model.safetensors").read_bytes() == before


def test_a_truncated_ingredient_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    folders = copies(tmp_path, "float32")
    whole = (folders[1] / "model.safetensors").read_bytes()
    (folders[1] / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=folders[1].name):
        mix(recipe_of(folders), output=tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
    assert list((Cache().root / "staging").glob("*")) == []


def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    folders = copies(tmp_path, "float32")
    tensors = load_file(folders[1] / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"] = torch.zeros(3)
    save_file(tensors, folders[1] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IncompatibleError, match=re.escape("[3]")) as caught:
        mix(recipe_of(folders), output=tmp_path / "out")
    assert caught.value.tensor == "embeddings.LayerNorm.bias"
    assert "[16]" in str(caught.value)


def test_integers_that_differ_are_refused(tmp_path: Path) -> None:
    folders = copies(tmp_path, "float32")
    for number, folder in enumerate(folders):
        tensors = load_file(folder / "model.safetensors") | {"steps": torch.tensor([number])}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IncompatibleError, match="steps"):
        mix(recipe_of(folders), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_weights_are_refused_before_anything_is_read() -> None:
    with pytest.raises(RecipeError, match=r"sum to 0\.9, not to 1"):
        mix({"ingredients": [{"model": "a/b", "weight": 0.5}, {"model": "c/d", "weight": 0.4}]})


def test_the_dtype_of_the_recipe_is_that_of_weights_and_config(tmp_path: Path) -> None:
    made = mix(recipe_of(list(models.pair("bert").folders), dtype="bfloat16"), output=tmp_path / "out")
    assert {tensor.dtype for tensor in weights_in(made.path).values() if tensor.is_floating_point()} == {torch.bfloat16}
    assert json.loads((made.path / "config.json").read_text())["dtype"] == "bfloat16"
    assert made.load().dtype == torch.bfloat16


def test_layers_give_some_tensors_other_weights(tmp_path: Path) -> None:
    folders = list(models.pair("bert").folders)
    layers = [{"match": r"embeddings\..*", "weights": [1.0, 0.0]}]
    made = weights_in(mix(recipe_of(folders, layers=layers), output=tmp_path / "out").path)
    first = weights_in(folders[0])
    kept = {name for name in first if bits(first[name]) == bits(made[name])}
    assert {name for name in first if name.startswith("embeddings.")} <= kept
    assert "encoder.layer.0.output.dense.weight" not in kept


def test_task_arithmetic_adds_the_differences_to_the_base(tmp_path: Path) -> None:
    base, tuned = models.pair("bert").folders
    recipe = recipe_of([base, tuned], (0.0, 0.5), method="task_arithmetic", base=str(base), parameters={"lambda": 2.0})
    made = weights_in(mix(recipe, output=tmp_path / "out").path)
    for name, tensor in weights_in(tuned).items():
        torch.testing.assert_close(made[name], tensor, rtol=0, atol=2e-7)


def test_a_recipe_inside_a_recipe_is_one_mix(tmp_path: Path) -> None:
    first, second = models.pair("bert").folders
    inner = tmp_path / "inner"
    inner.mkdir()
    config = {"model_type": "cocktail", "recipe": Recipe.from_dict(recipe_of([first, second], (0.5, 0.5))).to_dict()}
    (inner / "config.json").write_text(json.dumps(config))
    outer = mix(recipe_of([first, inner], (0.5, 0.5)), output=tmp_path / "outer")
    assert outer.recipe.weights == (0.75, 0.25)
    plain = mix(recipe_of([first, second], (0.75, 0.25)), output=tmp_path / "plain")
    assert same_bits(weights_in(outer.path), weights_in(plain.path))


def test_an_ingredient_that_changes_later_is_another_mix(tmp_path: Path) -> None:
    folders = copies(tmp_path, "float32")
    before = mix(recipe_of(folders)).recipe.digest
    tensors = load_file(folders[0] / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"] += 1
    save_file(tensors, folders[0] / "model.safetensors", metadata={"format": "pt"})
    assert mix(recipe_of(folders)).recipe.digest != before


def test_only_what_a_mix_needs_is_downloaded(hub: LoopbackHub, token: str, tmp_path: Path) -> None:
    ids = []
    for folder in copies(tmp_path, "float32"):
        (folder / "onnx").mkdir()
        (folder / "onnx" / "model.onnx").write_bytes(b"onnx" * 100)
        (folder / "pytorch_model.bin").write_bytes(b"bin" * 100)
        (folder / "model.gguf").write_bytes(b"gguf" * 100)
        (folder / "optimizer.pt").write_bytes(b"adam" * 100)
        ids.append(f"alice/many-formats-{len(ids)}")
        models.push(folder, ids[-1])
    hub.clear_requests()
    mix({"ingredients": [{"model": m, "weight": 0.5} for m in ids]}, token=token)
    asked = " ".join(request.path for request in hub.requests)
    assert "model.safetensors" in asked
    assert not re.search(r"onnx|\.bin|gguf|optimizer", asked)


def test_a_mix_can_be_copied_out_and_never_over_something(tmp_path: Path) -> None:
    made: Mix = mix(recipe_of(list(models.pair("bert").folders)))
    saved = made.save_pretrained(tmp_path / "saved")
    assert same_bits(weights_in(saved), weights_in(made.path))
    with pytest.raises(CacheError, match="exists and is not empty"):
        made.save_pretrained(tmp_path / "saved")


def test_a_private_ingredient_needs_a_token(hub: LoopbackHub, token: str) -> None:
    folder = models.pair("bert").folders[0]
    api = HfApi(token=token)
    api.create_repo("alice/secret-ingredient", private=True, exist_ok=True)
    api.upload_folder(repo_id="alice/secret-ingredient", folder_path=folder)
    ids = ["alice/secret-ingredient", models.published("bert").ids[1]]
    recipe = {"ingredients": [{"model": m, "weight": 0.5} for m in ids]}
    with pytest.raises(OSError, match="it is private and the token in use cannot see it"):
        mix(recipe, token=False)
    assert mix(recipe, token=token).path.is_dir()


def test_an_output_folder_that_cannot_be_made_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(MergeError, match="Cannot write to '"):
        mix(recipe_of(list(models.pair("bert").folders), (0.35, 0.65)), output=tmp_path / "file" / "mix")


def test_the_name_of_a_finished_folder_is_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("cocktail_hub.merge.output_folder.sync_folder", synced.append)
    mix(recipe_of(models.pair("bert").folders), output=tmp_path / "out", options=MixOptions(force=True))
    assert synced == [tmp_path]


def test_a_mix_that_left_the_cache_is_made_again_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    made = mix(recipe_of(list(models.pair("bert").folders)))
    with made.kept() as kept:
        assert kept is made
        assert Cache().prune(max_bytes=0) == []
    assert len(Cache().prune(max_bytes=0)) == 1
    assert not made.path.exists()
    made.load()
    assert made.path.is_dir()
