"""`check`: what a mix would take, known before any weights are downloaded."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from huggingface_hub import HfApi
from models import ORG, WEIGHTS, expected, pair, published, push

from cocktail_hub import MixOptions, check, mix

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole


def sizes(repo_id: str) -> dict[str, int]:
    found = HfApi().list_repo_tree(repo_id, recursive=True)
    return {entry.path: entry.size for entry in found if entry.path not in (".gitattributes", "README.md")}


def test_a_preview_tells_sizes_weights_and_kinds(tmp_path: Path) -> None:
    ids = published("bert").ids
    found = check(published("bert").recipe, cache_dir=tmp_path)
    assert (found.method, found.architecture, found.task) == ("linear", "BertModel", "feature-extraction")
    assert [(m.model, m.weight) for m in found.models] == [(ids[0], 0.75), (ids[1], 0.25)]
    assert [m.revision for m in found.models] == [HfApi().repo_info(model).sha for model in ids]
    assert [m.nbytes for m in found.models] == [sum(sizes(model).values()) for model in ids]
    tensors = expected("bert")
    assert found.tensors == len(tensors)
    nbytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert nbytes < found.output_bytes < nbytes + 20_000  # the header
    assert found.input_bytes == 2 * nbytes
    assert found.files == (WEIGHTS,)
    assert 0 < found.peak_memory < 1 << 30


def test_no_weights_are_downloaded_for_it(tmp_path: Path, hub: LoopbackHub) -> None:
    recipe = published("llama").recipe
    hub.clear_requests()
    found = check(recipe, cache_dir=tmp_path)
    weights = [request for request in hub.requests if WEIGHTS in request.path and request.method == "GET"]
    assert all("range" in request.headers for request in weights)
    assert not list(tmp_path.rglob(WEIGHTS))
    assert found.to_download >= sum(sizes(model)[WEIGHTS] for model in published("llama").ids)


def test_what_is_here_is_not_counted_as_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "mixes"))  # a mix that is cached needs no download
    recipe = published("bert").recipe
    assert check(recipe, cache_dir=tmp_path).to_download > 0
    mix(recipe, cache_dir=tmp_path)
    assert check(recipe, cache_dir=tmp_path).to_download == 0


def test_local_models_need_no_download() -> None:
    found = check(pair("bert").local_recipe)
    assert found.to_download == 0
    assert [m.model for m in found.models] == [str(folder) for folder in pair("bert").folders]


def test_shards_are_those_of_the_options() -> None:
    found = check(published("bert").recipe, options=MixOptions(max_shard_size="10KB"))
    assert len(found.files) > 1
    assert 10_000 - 2048 < found.largest_file < 10_000 + 2000  # the header comes on top, as with `save_pretrained`
    made = mix(published("bert").recipe, options=MixOptions(max_shard_size="10KB"))
    assert {path.name for path in made.path.glob("*.safetensors")} == set(found.files)


def test_open_weights_are_shown_as_open() -> None:
    models = [{"model": model} for model in published("bert").ids]
    found = check({"ingredients": models, "weighting": {"rule": "uniform"}})
    assert [m.weight for m in found.models] == [None, None]


def test_the_base_of_task_vectors_comes_first_and_has_no_weight(tmp_path: Path) -> None:
    base = published("bert").ids[0]
    models = [{"model": model, "weight": 0.5} for model in published("bert").ids]
    found = check({"ingredients": models, "method": "task_arithmetic", "base": base})
    assert [(m.model, m.weight) for m in found.models] == [
        (base, None),
        *((model, 0.5) for model in published("bert").ids),
    ]


def test_licences_are_read_from_the_cards(tmp_path: Path) -> None:
    ids = []
    for letter, licence in (("a", "mit"), ("b", "apache-2.0")):
        folder = tmp_path / letter
        shutil.copytree(pair("bert").folders[0], folder)
        (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
        ids.append(f"{ORG}/preview-{letter}")
        push(folder, ids[-1])
    found = check({"ingredients": [{"model": ids[0], "weight": 0.5}, {"model": ids[1], "weight": 0.5}]})
    assert [m.license for m in found.models] == ["mit", "apache-2.0"]
    assert found.license_note


def test_the_disk_that_is_needed_is_less_on_little_disk(tmp_path: Path) -> None:
    whole, low = (
        check(published("llama").recipe, cache_dir=tmp_path, options=MixOptions(max_shard_size="10KB", low_disk=little))
        for little in (False, True)
    )
    assert whole.peak_disk == whole.to_download + whole.output_bytes
    assert low.peak_disk == low.output_bytes + low.largest_input < whole.peak_disk


def test_numbers_that_differ_by_tensor_are_listed_for_each(tmp_path: Path) -> None:
    first, second = map(str, pair("bert").folders)
    recipe = {
        "method": "ties",
        "base": first,
        "ingredients": [{"model": second, "weight": [0, 1], "parameters": {"density": [0.2, 0.4]}}],
    }
    found = check(recipe, cache_dir=tmp_path).to_dict()["numbers"]
    assert len(found) == len(expected("bert"))
    assert found["embeddings.word_embeddings.weight"]["models"] == [first]
    last = found["encoder.layer.1.attention.self.query.weight"]
    assert last["weights"] == [1.0]
    assert last["parameters"]["density"] == (0.4,)
    assert check(published("bert").recipe, cache_dir=tmp_path).numbers == {}
