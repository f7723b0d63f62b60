"""Resolve: every model pinned, every nested recipe inlined, nothing requested twice."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.errors import IncompatibleError, RecipeError, SourceError
from cocktail_hub.hub import Hub
from cocktail_hub.recipe import Ingredient, ModelReference, Recipe, as_resolved
from cocktail_hub.resolve import resolve as resolving
from cocktail_hub.resolve.resolve import (
    ResolvedModel,
    folder_digest,
    open_model,
    resolve,
    with_weights,
)
from cocktail_hub.storage.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cocktail_hub.testing import LoopbackHub

pytestmark = pytest.mark.whole

_NUMBERS = itertools.count()
PLAIN: dict[str, bytes] = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights"}


@pytest.fixture
def options(token: str) -> Hub:
    return Hub(token=token)


@pytest.fixture
def api(token: str) -> HfApi:
    return HfApi(token=token)


@pytest.fixture
def push(api: HfApi) -> Callable[..., str]:
    """Make a repo, by default one that looks like a model; returns its id."""

    def commit(files: dict[str, bytes] | None = None, *, repo: str | None = None) -> str:
        repo = repo or f"alice/resolve-{next(_NUMBERS)}"
        api.create_repo(repo, exist_ok=True)
        contents = PLAIN | {"tag.txt": repo.encode()} if files is None else files
        api.create_commit(repo, [CommitOperationAdd(p, c) for p, c in contents.items()], commit_message="Add")
        return repo

    return commit


def head(api: HfApi, repo: str) -> str:
    return str(api.repo_info(repo).sha)


def folder(path: Path, files: dict[str, bytes] | None = None) -> Path:
    for name, content in (files or PLAIN).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def mix(*models: Any, **keys: Any) -> Recipe:
    """A recipe of models with given or equal weights."""
    entries = [m if isinstance(m, dict) else {"model": str(m)} for m in models]
    weights = keys.pop("weights", None) or [1 / len(entries)] * len(entries)
    weighted = [entry | {"weight": w} for entry, w in zip(entries, weights, strict=True)]
    return Recipe.from_dict({"ingredients": weighted if "weighting" not in keys else entries} | keys)


def recipe_config(*models: Any, **keys: Any) -> bytes:
    return json.dumps({"model_type": "cocktail", "recipe": mix(*models, **keys).to_dict()}).encode()


def weights(recipe: Recipe) -> dict[str, float]:
    assert recipe.weights is not None
    return dict(zip([i.model for i in recipe.ingredients], recipe.weights, strict=True))


# -- models on the Hub ---------------------------------------------------------------------------------------------


def test_a_branch_becomes_a_commit_and_is_remembered(push: Callable[..., str], options: Hub, api: HfApi) -> None:
    a, b = push(), push()
    api.create_tag(b, tag="v1")
    api.create_commit(b, [CommitOperationAdd("more.txt", b"x")], commit_message="x")
    resolved = resolve(mix(a, f"{b}@v1"), options)
    first, second = resolved.ingredients
    assert (first.revision, first.requested) == (head(api, a), "main")
    assert (second.revision, second.requested) == (api.list_repo_commits(b)[1].commit_id, "v1")
    assert as_resolved(resolved).digest


def test_a_branch_that_moved_is_another_mix(push: Callable[..., str], options: Hub, api: HfApi) -> None:
    a, b = push(), push()
    before = as_resolved(resolve(mix(a, b), options))
    api.create_commit(a, [CommitOperationAdd("config.json", b'{"model_type": "bert", "x": 1}')], commit_message="x")
    after = as_resolved(resolve(mix(a, b), options))
    assert after.ingredients[0].revision == head(api, a) != before.ingredients[0].revision
    assert after.digest != before.digest


def test_a_resolved_recipe_makes_no_requests(push: Callable[..., str], options: Hub, hub: LoopbackHub) -> None:
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x"}
    recipe = mix(push(), {"model": push(adapter), "base": push()})
    resolved = resolve(recipe, options)
    hub.clear_requests()
    assert resolve(resolved, options) == resolved
    assert hub.requests == []


def test_no_weights_are_read(push: Callable[..., str], options: Hub, hub: LoopbackHub) -> None:
    recipe = mix(push(), push())
    hub.clear_requests()
    resolve(recipe, options)
    assert hub.sent("GET /_cdn/") == 0


def test_a_commit_that_is_written_out_is_kept(push: Callable[..., str], options: Hub, api: HfApi) -> None:
    a, b = push(), push()
    commit = head(api, a)
    first = resolve(mix(f"{a}@{commit}", b), options).ingredients[0]
    assert (first.revision, first.requested) == (commit, commit)


def test_many_models_are_looked_up_side_by_side_and_stay_in_order(push: Callable[..., str], options: Hub) -> None:
    repos = [push() for _ in range(20)]
    assert [i.model for i in resolve(mix(*repos), options).ingredients] == repos


def test_base_and_anchor_are_pinned_too(push: Callable[..., str], options: Hub, api: HfApi) -> None:
    a, b, c = push(), push(), push()
    resolved = resolve(mix(a, b, method="ties", base=c), options)
    assert resolved.base == ModelReference(model=c, revision=head(api, c), requested="main")
    opened = resolve(mix(a, b, weighting={"rule": "uniform"}, anchor=c), options)
    assert opened.anchor is not None
    assert opened.anchor.revision == head(api, c)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("alice/none", "'alice/none' is not on the Hub"),
        ("./none", r"There is no folder '\./?none'|There is no folder 'none'"),
    ],
)
def test_a_model_that_is_not_there_is_named(push: Callable[..., str], options: Hub, model: str, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        resolve(mix(push(), model), options)


def test_two_names_of_one_commit_among_others_are_refused(push: Callable[..., str], options: Hub, api: HfApi) -> None:
    a, b = push(), push()
    api.create_tag(a, tag="v1")
    with pytest.raises(RecipeError, match=rf"Ingredient '{a}@v1' is listed twice \(positions 0 and 1\)"):
        resolve(mix(a, f"{a}@v1", b), options)


def test_a_repo_and_a_folder_of_the_same_name_are_different_models(
    push: Callable[..., str], options: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = push(), push()
    folder(tmp_path / a)
    resolved = resolve(mix(a, b), options)
    monkeypatch.chdir(tmp_path)
    assert resolve(resolved, options) == resolved
    assert not isinstance(open_model(resolved.ingredients[0], options).files, LocalFiles)
    assert resolve(mix(a, b), options).ingredients[0].digest


# -- folders -------------------------------------------------------------------------------------------------------


def opened_folder(path: Path) -> ResolvedModel:
    return ResolvedModel(reference=ModelReference(model=str(path)), files=LocalFiles(path))


def test_a_folder_becomes_a_digest(tmp_path: Path, options: Hub) -> None:
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b", PLAIN | {"model.safetensors": b"other"})
    first, second = resolve(mix(a, b), options).ingredients
    assert first.digest == folder_digest(opened_folder(a))
    assert first.digest != second.digest
    assert (first.revision, first.requested) == (None, None)
    assert open_model(first, options).root == a


def test_the_digest_is_that_of_content_and_names(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b")
    os.utime(b / "model.safetensors", (1, 1))
    assert folder_digest(opened_folder(a)) == folder_digest(opened_folder(b))
    (b / "README.md").write_text("not part of the model")
    (b / "onnx").mkdir()
    (b / "onnx" / "model.onnx").write_text("x")
    assert folder_digest(opened_folder(a)) == folder_digest(opened_folder(b))
    (b / "vocab.txt").write_text("a")
    assert folder_digest(opened_folder(a)) != folder_digest(opened_folder(b))
    (a / "words.txt").write_text("a")
    assert folder_digest(opened_folder(a)) != folder_digest(opened_folder(b))


def test_the_digest_stays_what_it_is_from_release_to_release(tmp_path: Path) -> None:
    """Resolved recipes of local folders hold it."""
    assert folder_digest(opened_folder(folder(tmp_path / "a"))) == ("xxh128:2a8f729f1b65f319b14cfdf12a5906bb")
    assert folder_digest(opened_folder(tmp_path / "a"), "sha256") == (
        "sha256:8b605824cb4b3d5cf0399ccec1084d4fe6a83a390fbf01fb66307126c9f79bed"
    )


def test_code_of_a_model_is_part_of_it(tmp_path: Path) -> None:
    path = folder(tmp_path / "a")
    before = folder_digest(opened_folder(path))
    (path / "modeling_x.py").write_text("x = 1")
    assert folder_digest(opened_folder(path)) != before


def test_a_folder_that_changed_since_is_refused(tmp_path: Path, options: Hub) -> None:
    resolved = resolve(mix(folder(tmp_path / "a"), folder(tmp_path / "b", PLAIN | {"x.txt": b"b"})), options)
    assert resolve(resolved, options) == resolved
    (tmp_path / "a" / "model.safetensors").write_bytes(b"WEIGHTS")
    for act in (lambda: resolve(resolved, options), lambda: open_model(resolved.ingredients[0], options)):
        with pytest.raises(
            IncompatibleError, match=r"(?s)The folder '.*a' has changed since the recipe was resolved"
        ) as e:
            act()
        assert e.value.model == str(tmp_path / "a")


def test_a_sha256_that_the_recipe_gives_is_verified(tmp_path: Path, options: Hub) -> None:
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b", PLAIN | {"x.txt": b"b"})
    given = {"model": str(a), "digest": folder_digest(opened_folder(a), "sha256")}
    assert resolve(mix(given, b), options).ingredients[0].digest == given["digest"]
    (a / "model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(IncompatibleError, match=r"its digest is sha256:.*, the recipe says sha256:"):
        resolve(mix(given, b), options)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose digest is worth noting, in a cache of its own."""
    monkeypatch.setenv("COCKTAIL_HUB_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "large.bin"
    path.write_bytes(b"x" * resolving.WORTH_NOTING)
    return path


def wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let enough time pass."""
    later = time.time() + 100
    monkeypatch.setattr(resolving.time, "time", lambda: later)


def digest_without_reading(path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    def refuse(*_: Any) -> str:
        raise AssertionError("the file was read")

    with monkeypatch.context() as patched:
        patched.setattr(resolving, "hash_of", refuse)
        return resolving.file_digest(path, "xxh128")


def test_a_large_file_is_read_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait(monkeypatch)
    first = resolving.file_digest(large, "xxh128")
    assert digest_without_reading(large, monkeypatch) == first


def test_a_file_that_was_just_written_is_read_again(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two changes within one tick of the disk's clock would look the same."""
    resolving.file_digest(large, "xxh128")
    with pytest.raises(AssertionError, match="the file was read"):
        digest_without_reading(large, monkeypatch)


def test_a_change_that_hides_its_time_is_noticed(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait(monkeypatch)
    status = large.stat()
    before = resolving.file_digest(large, "xxh128")
    time.sleep(0.02)  # the clock of the disk ticks
    large.write_bytes(b"y" * resolving.WORTH_NOTING)
    os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert resolving.file_digest(large, "xxh128") != before


def test_both_kinds_of_digest_are_noted(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait(monkeypatch)
    first, second = resolving.file_digest(large, "xxh128"), resolving.file_digest(large, "sha256")
    assert (len(first), len(second)) == (32, 64)
    assert digest_without_reading(large, monkeypatch) == first


def test_a_damaged_note_is_written_again(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait(monkeypatch)
    before = resolving.file_digest(large, "xxh128")
    (note,) = (Cache().root / "digests").iterdir()
    note.write_bytes(b"\xff")
    assert resolving.file_digest(large, "xxh128") == before
    assert digest_without_reading(large, monkeypatch) == before


def test_a_cache_that_cannot_be_written_costs_time_only(
    large: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wait(monkeypatch)
    (tmp_path / "cache").write_text("a file where the folder would be")
    assert resolving.file_digest(large, "xxh128") == resolving.file_digest(large, "xxh128")


@pytest.mark.parametrize("content", [b"\0" * 32, b"", b"z" * 32])
def test_a_note_spoilt_by_a_crash_is_written_again(
    content: bytes, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(monkeypatch)
    before = resolving.file_digest(large, "xxh128")
    (note,) = (Cache().root / "digests").iterdir()
    note.write_bytes(content)
    assert resolving.file_digest(large, "xxh128") == before
    assert note.read_text() == before


def test_a_file_that_changed_shortly_before_it_was_read_is_read_again(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the reading took."""
    moments = iter([large.stat().st_mtime + 1, large.stat().st_mtime + 100])
    with monkeypatch.context() as patched:
        patched.setattr(resolving.time, "time", lambda: next(moments))
        resolving.file_digest(large, "xxh128")
    assert not (Cache().root / "digests").exists()


def test_files_are_read_each_time_where_no_timestamp_reveals_a_change(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    wait(monkeypatch)
    monkeypatch.setattr(resolving, "TIMES_TELL", False)
    resolving.file_digest(large, "xxh128")
    with pytest.raises(AssertionError, match="the file was read"):
        digest_without_reading(large, monkeypatch)


def test_old_notes_are_removed(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait(monkeypatch)
    resolving.file_digest(large, "xxh128")
    assert resolving.prune_notes() == 0
    assert resolving.prune_notes(older_than=50) == 1
    assert list((Cache().root / "digests").iterdir()) == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "a")
    opened = opened_folder(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"Cannot read 'model\.safetensors' of '.*a': No such file.*\n.*digest"):
        folder_digest(opened)


def test_a_repo_has_no_digest(push: Callable[..., str], options: Hub) -> None:
    pinned = resolve(mix(push(), push()), options).ingredients[0]
    with pytest.raises(TypeError, match="Only local folders have a content digest"):
        folder_digest(open_model(pinned, options))


# -- adapters ------------------------------------------------------------------------------------------------------


def adapter_files(base: str | None, revision: str | None = None) -> dict[str, bytes]:
    config = {"base_model_name_or_path": base, "revision": revision, "peft_type": "LORA"}
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": b"x"}


def test_an_adapter_gets_the_base_that_it_names(push: Callable[..., str], options: Hub, api: HfApi) -> None:
    base = push()
    first = resolve(mix(push(adapter_files(base)), push()), options).ingredients[0]
    assert first.base == ModelReference(model=base, revision=head(api, base), requested="main")


def test_the_revision_that_an_adapter_names_counts(push: Callable[..., str], options: Hub, api: HfApi) -> None:
    base = push()
    api.create_tag(base, tag="v1")
    commit = head(api, base)
    api.create_commit(base, [CommitOperationAdd("more.txt", b"x")], commit_message="x")
    first = resolve(mix(push(adapter_files(base, "v1")), push()), options).ingredients[0]
    assert first.base == ModelReference(model=base, revision=commit, requested="v1")


def test_the_recipe_may_name_another_base(push: Callable[..., str], options: Hub, api: HfApi) -> None:
    base = push()
    entry = {"model": push(adapter_files("org/gone")), "base": base}
    first = resolve(mix(entry, push()), options).ingredients[0]
    assert first.base == ModelReference(model=base, revision=head(api, base), requested="main")


def test_a_local_adapter_may_name_a_local_base(tmp_path: Path, options: Hub, push: Callable[..., str]) -> None:
    base = folder(tmp_path / "base")
    adapter = folder(tmp_path / "lora", adapter_files(str(base)))
    first = resolve(mix(adapter, push()), options).ingredients[0]
    assert first.base is not None
    assert first.base.digest == folder_digest(opened_folder(base))
    assert resolve(mix(adapter, push()), options).ingredients[0] == first


def test_an_adapter_whose_base_is_gone_is_named(push: Callable[..., str], options: Hub) -> None:
    repo = push(adapter_files("org/gone"))
    with pytest.raises(SourceError) as caught:
        resolve(mix(repo, push()), options)
    first, *rest, last = str(caught.value).splitlines()
    assert first == (
        f"'{repo}' is an adapter of 'org/gone', according to its adapter_config.json (`base_model_name_or_path`), "
        "which cannot be read:"
    )
    assert "'org/gone'" in rest[0]
    assert (
        last == f"If that model is elsewhere, name it in the recipe: `- {{model: {repo}, base: {{model: org/name}}}}`."
    )


def test_a_local_adapter_whose_base_is_gone_is_named(tmp_path: Path, options: Hub, push: Callable[..., str]) -> None:
    adapter = folder(tmp_path / "lora", adapter_files(str(tmp_path / "gone")))
    with pytest.raises(
        SourceError, match=r"(?s)/lora' is an adapter of '.*/gone', according to its adapter_config.json \(`base_"
    ):
        resolve(mix(adapter, push()), options)


def test_a_base_given_by_the_recipe_that_is_gone_is_reported_with_its_adapter(
    push: Callable[..., str], options: Hub
) -> None:
    repo = push(adapter_files(push()))
    with pytest.raises(
        SourceError, match=rf"^'{repo}' is an adapter of 'org/gone', according to the recipe \(`base`\)"
    ):
        resolve(mix({"model": repo, "base": "org/gone"}, push()), options)


def test_an_adapter_without_a_base_says_how_to_give_one(push: Callable[..., str], options: Hub) -> None:
    repo = push(adapter_files(None))
    with pytest.raises(SourceError, match=rf"(?s)'{repo}' is an adapter that does not say.*\- {{model: {repo}, base:"):
        resolve(mix(repo, push()), options)


@pytest.mark.parametrize("base", ["/home/author/llama", "../llama", "~/llama"])
def test_an_adapter_from_the_hub_cannot_name_a_folder(push: Callable[..., str], options: Hub, base: str) -> None:
    with pytest.raises(SourceError, match=r"(?s)is an adapter of the folder '.*llama' on its author's machine"):
        resolve(mix(push(adapter_files(base)), push()), options)


def test_an_adapter_from_the_hub_means_the_repo_even_if_a_folder_has_its_name(
    push: Callable[..., str], options: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: HfApi
) -> None:
    base = push()
    folder(tmp_path / base)
    monkeypatch.chdir(tmp_path)
    first = resolve(mix(push(adapter_files(base)), push()), options).ingredients[0]
    assert first.base == ModelReference(model=base, revision=head(api, base), requested="main")


def test_an_adapter_of_an_adapter_is_refused(push: Callable[..., str], options: Hub) -> None:
    inner = push(adapter_files("org/gone"))
    with pytest.raises(IncompatibleError, match=rf"is an adapter of '{inner}', which is itself an adapter"):
        resolve(mix(push(adapter_files(inner)), push()), options)


def test_an_adapter_of_a_recipe_is_added_to_each_of_its_ingredients(
    push: Callable[..., str], options: Hub, api: HfApi
) -> None:
    a, b, c = push(), push(), push()
    recipe = push({"config.json": recipe_config(a, b, weights=[0.75, 0.25])})
    adapter = push(adapter_files(recipe))
    resolved = resolve(mix(adapter, c, weights=[0.5, 0.5]), options)
    assert [(i.model, i.weight) for i in resolved.ingredients] == [(adapter, 0.375), (adapter, 0.125), (c, 0.5)]
    assert [i.base and (i.base.model, i.base.revision) for i in resolved.ingredients] == [
        (a, head(api, a)),
        (b, head(api, b)),
        None,
    ]
    assert resolved.evidence == {"inlined": {recipe: head(api, recipe)}}
    assert as_resolved(resolved) == as_resolved(resolve(resolved, options))


def test_recipes_under_an_adapter_nest_and_are_all_recorded(push: Callable[..., str], options: Hub, api: HfApi) -> None:
    a, b, c = push(), push(), push()
    inner = push({"config.json": recipe_config(a, b, weights=[0.5, 0.5])})
    outer = push({"config.json": recipe_config(inner, c, weights=[0.5, 0.5])})
    resolved = resolve(mix(push(adapter_files(outer)), c, weights=[0.5, 0.5]), options)
    assert [(i.base.model if i.base else "", i.weight) for i in resolved.ingredients] == [
        (a, 0.125), (b, 0.125), (c, 0.25), ("", 0.5),
    ]  # fmt: skip
    assert resolved.evidence == {"inlined": {inner: head(api, inner), outer: head(api, outer)}}


def test_the_recipe_that_a_local_adapter_adapts_may_be_local(tmp_path: Path, options: Hub) -> None:
    a, b = folder(tmp_path / "a"), folder(tmp_path / "b", PLAIN | {"x.txt": b"b"})
    recipe = folder(tmp_path / "recipe", {"config.json": recipe_config("../a", "../b", weights=[0.5, 0.5])})
    adapter = folder(tmp_path / "lora", adapter_files(str(recipe)))
    resolved = resolve(mix(adapter, b, weights=[0.5, 0.5]), options)
    assert [i.base and i.base.model for i in resolved.ingredients] == [str(a), str(b), None]
    assert resolved.evidence is None


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (({"weighting": {"rule": "uniform"}}, {}, {}), "Both must be linear mixes with given weights"),
        (({}, {"weighting": {"rule": "uniform"}}, {}), "Both must be linear mixes with given weights"),
        (({}, {"method": "ties", "base": "BASE"}, {}), "Both must be linear mixes with given weights"),
        (({"tokenizer": "SECOND"}, {}, {}), "Its config or tokenizer is not that of its first ingredient."),
        (({}, {}, {"use_dora": True}), "A DoRA divides by the norm of the mixed weights."),
    ],
)
def test_an_adapter_of_a_recipe_that_cannot_be_inlined_says_what_to_mix_first(
    push: Callable[..., str], options: Hub, keys: tuple[dict[str, Any], ...], why: str
) -> None:
    inner, outer, peft = keys
    a, b = push(), push()
    names = {"BASE": a, "SECOND": b}
    recipe = push({"config.json": recipe_config(a, b, **{k: names.get(str(v), v) for k, v in inner.items()})})
    files = adapter_files(recipe)
    config = json.dumps(json.loads(files["adapter_config.json"]) | peft).encode()
    adapter = push(files | {"adapter_config.json": config})
    with pytest.raises(RecipeError) as caught:
        resolve(mix(adapter, push(), **{k: names.get(str(v), v) for k, v in outer.items()}), options)
    first, second, third = str(caught.value).splitlines()
    assert first == f"'{adapter}' is an adapter of '{recipe}', a recipe that cannot be inlined."
    assert second.startswith(why)
    assert third == (
        f"Mix it first (`cocktail mix {recipe} -o FOLDER`) and name the folder: "
        f"`- {{model: {adapter}, base: {{model: FOLDER}}}}`."
    )


def test_an_adapter_of_a_recipe_with_adapters_is_refused(push: Callable[..., str], options: Hub) -> None:
    recipe = push({"config.json": recipe_config(push(), lora := push(adapter_files(push())))})
    with pytest.raises(RecipeError, match=rf"Its ingredient '{lora}' is itself an adapter"):
        resolve(mix(push(adapter_files(recipe)), push()), options)


@pytest.mark.parametrize("key", ["base", "anchor"])
def test_neither_base_nor_anchor_can_be_an_adapter_of_a_recipe(
    push: Callable[..., str], options: Hub, key: str
) -> None:
    adapter = push(adapter_files(push({"config.json": recipe_config(push(), push())})))
    keys = {"method": "ties", "base": adapter} if key == "base" else {"anchor": adapter}
    with pytest.raises(RecipeError, match="Only ingredients can be adapters of a recipe"):
        resolve(mix(push(), push(), **keys), options)


def test_an_adapter_of_itself_is_refused(push: Callable[..., str], options: Hub) -> None:
    repo = f"alice/resolve-{next(_NUMBERS)}"
    push(adapter_files(repo), repo=repo)
    with pytest.raises(IncompatibleError, match="which is itself an adapter"):
        resolve(mix(repo, push()), options)


def test_a_base_for_a_whole_model_is_refused(push: Callable[..., str], options: Hub) -> None:
    with pytest.raises(RecipeError, match="has a `base` in the recipe, but it is a whole model and no adapter"):
        resolve(mix({"model": push(), "base": push()}, push()), options)


# -- recipes inside recipes ----------------------------------------------------------------------------------------


def test_a_nested_recipe_is_inlined_with_its_weights_multiplied(
    push: Callable[..., str], options: Hub, api: HfApi
) -> None:
    a, b, c = push(), push(), push()
    inner = push({"config.json": recipe_config(a, b, weights=[0.75, 0.25])})
    resolved = resolve(mix(inner, c, weights=[0.5, 0.5]), options)
    assert [(i.model, i.weight) for i in resolved.ingredients] == [(a, 0.375), (b, 0.125), (c, 0.5)]
    assert [i.revision for i in resolved.ingredients] == [head(api, repo) for repo in (a, b, c)]
    assert as_resolved(resolved) == as_resolved(resolve(resolved, options))


def test_a_model_in_both_gets_the_sum(push: Callable[..., str], options: Hub) -> None:
    a, b = push(), push()
    inner = push({"config.json": recipe_config(a, b, weights=[0.75, 0.25])})
    assert weights(resolve(mix(inner, a, weights=[0.5, 0.5]), options)) == {a: 0.875, b: 0.125}


def test_recipes_nest_as_deep_as_they_like(push: Callable[..., str], options: Hub) -> None:
    models = [push() for _ in range(12)]
    nested = models[0]
    for model in models[1:]:
        nested = push({"config.json": recipe_config(nested, model, weights=[0.5, 0.5])})
    found = resolve(mix(nested, models[0], weights=[0.5, 0.5]), options)
    assert weights(found)[models[0]] == 0.5 + 0.5**12
    assert len(found.ingredients) == 12


def test_a_recipe_that_comes_to_one_model_is_that_model_mixed_with_itself(
    push: Callable[..., str], options: Hub
) -> None:
    a = push()
    inner = push({"config.json": recipe_config(a, a, weights=[0.5, 0.5])})
    resolved = resolve(mix(inner, a, weights=[0.5, 0.5]), options)
    assert [(i.model, i.weight) for i in resolved.ingredients] == [(a, 0.25), (a, 0.25), (a, 0.5)]


def test_nested_weights_that_miss_one_by_a_little_do_not_add_up_their_errors(
    push: Callable[..., str], options: Hub
) -> None:
    a, b, c = push(), push(), push()
    inner = push({"config.json": recipe_config(a, b, weights=[0.5, 0.5000009])})
    resolved = resolve(mix(inner, c, weights=[0.5, 0.5000009]), options)
    assert resolved.weights is not None
    assert sum(resolved.weights) == pytest.approx(1.0000009, abs=1e-12)


def test_local_recipes_are_inlined_from_folders_and_files(tmp_path: Path, options: Hub) -> None:
    folder(tmp_path / "in" / "a")
    folder(tmp_path / "in" / "b", PLAIN | {"x.txt": b"b"})
    c = folder(tmp_path / "c", PLAIN | {"x.txt": b"c"})
    (tmp_path / "in" / "config.json").write_bytes(recipe_config("./a", "./b", weights=[0.5, 0.5]))
    (tmp_path / "in" / "recipe.yaml").write_text(
        "ingredients:\n- {model: ./a, weight: 0.5}\n- {model: b, weight: 0.5}\n"
    )
    expected = {str(tmp_path / "in" / "a"): 0.25, str(tmp_path / "in" / "b"): 0.25, str(c): 0.5}
    assert weights(resolve(mix(tmp_path / "in", c), options)) == expected
    assert weights(resolve(mix(tmp_path / "in" / "recipe.yaml", c), options)) == expected


def test_a_nested_recipe_from_the_hub_cannot_name_a_folder(push: Callable[..., str], options: Hub) -> None:
    inner = push({"config.json": recipe_config("/home/me/a", "org/b")})
    with pytest.raises(RecipeError, match=rf"The recipe '{inner}' names the local folder '/home/me/a'"):
        resolve(mix(inner, push()), options)


def test_a_merged_repo_is_a_model_whatever_it_was_made_of(push: Callable[..., str], options: Hub, api: HfApi) -> None:
    merged = push(PLAIN | {"recipe.json": b"{}"})
    assert resolve(mix(merged, push()), options).ingredients[0].revision == head(api, merged)


def test_cyclic_recipes_are_refused_in_the_first_round(
    push: Callable[..., str], options: Hub, hub: LoopbackHub
) -> None:
    one, two = (f"alice/resolve-{next(_NUMBERS)}" for _ in range(2))
    push({"config.json": recipe_config(two, push())}, repo=one)
    push({"config.json": recipe_config(one, push())}, repo=two)
    hub.clear_requests()
    with pytest.raises(RecipeError, match=rf"The recipe '{one}' contains itself: {one} -> {two} -> {one}\."):
        resolve(mix(one, push()), options)
    assert (
        len([r for r in hub.requests if r.path.startswith(f"/api/models/{one}?") or r.path == f"/api/models/{one}"])
        <= 2
    )


def test_recipes_that_name_two_others_each_are_not_followed_without_end(tmp_path: Path, options: Hub) -> None:
    for number in range(12):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "config.json").write_bytes(recipe_config(*[f"../{number + 1}"] * 2))
    with pytest.raises(RecipeError, match="The recipe contains more than 64 others"):
        resolve(mix(tmp_path / "0", tmp_path / "1"), options)


def test_a_local_recipe_inside_itself_is_refused(tmp_path: Path, options: Hub, push: Callable[..., str]) -> None:
    (tmp_path / "config.json").write_bytes(recipe_config(".", "org/b"))
    with pytest.raises(RecipeError, match=r"contains itself"):
        resolve(mix(tmp_path, push()), options)


def test_the_same_recipe_twice_side_by_side_is_no_cycle(push: Callable[..., str], options: Hub) -> None:
    a, b = push(), push()
    inner = push({"config.json": recipe_config(a, b, weights=[0.5, 0.5])})
    other = push({"config.json": recipe_config(inner, a, weights=[0.5, 0.5])})
    assert weights(resolve(mix(inner, other, weights=[0.5, 0.5]), options)) == {a: 0.625, b: 0.375}


@pytest.mark.parametrize(
    ("inner_keys", "outer_keys"),
    [
        ({"method": "task_arithmetic", "base": "BASE"}, {}),
        ({"layers": [{"match": ".*", "weights": [1.0, 0.0]}]}, {}),
        ({"missing": {"head": "drop"}}, {}),
        ({}, {"method": "task_arithmetic", "base": "BASE"}),
        ({}, {"layers": [{"match": ".*", "weights": [1.0, 0.0]}]}),
        ({}, {"weighting": {"rule": "uniform"}}),
    ],
)
def test_a_recipe_that_cannot_be_inlined_stays_a_recipe_of_exact_models(
    push: Callable[..., str], options: Hub, inner_keys: dict[str, Any], outer_keys: dict[str, Any]
) -> None:
    base, one, other = push(), push(), push()
    given, outer = ({k: base if v == "BASE" else v for k, v in keys.items()} for keys in (inner_keys, outer_keys))
    inner = push({"config.json": recipe_config(one, other, **given)})
    found = resolve(mix(inner, push(), **outer), options)
    stage = found.ingredients[0]
    assert (stage.model, stage.revision) == (inner, options.resolve(inner, None))
    assert [entry["model"] for entry in stage.recipe["ingredients"]] == [one, other]
    assert all(reference.pinned for reference in found.all_references)
    assert inner not in {reference.model for reference in found.all_references}
    assert resolve(found, options) == found


def test_a_recipe_without_weights_cannot_be_mixed_with_others(push: Callable[..., str], options: Hub) -> None:
    inner = push({"config.json": recipe_config(push(), push(), weighting={"rule": "uniform"})})
    with pytest.raises(RecipeError) as caught:
        resolve(mix(inner, push()), options)
    assert str(caught.value) == (
        f"Ingredient '{inner}' is itself a recipe that cannot be inlined.\n"
        "Both must be linear mixes with given weights, the same for all tensors, the inner one without `keep`, and "
        "with the same `missing`.\n"
        f"Mix it first (`cocktail mix {inner} -o FOLDER`) and name the folder."
    )
    with pytest.raises(RecipeError, match="A recipe inside the recipe has no weights yet"):
        resolve(mix(push(), push(), method="ties", base=inner), options)


@pytest.mark.parametrize("keys", [{"tokenizer": "union"}, {"pad_to_multiple_of": 64}, {"chat_template": "chatml"}])
def test_a_recipe_with_tokens_of_its_own_making_is_not_inlined(
    push: Callable[..., str], options: Hub, keys: dict[str, Any]
) -> None:
    inner = push({"config.json": recipe_config(push(), push(), weights=[0.5, 0.5], **keys)})
    with pytest.raises(RecipeError, match="It has tokens or a chat template of its own making, which would be lost"):
        resolve(mix(inner, push(), weights=[0.5, 0.5]), options)


def test_a_recipe_written_inside_the_recipe_is_inlined_too(push: Callable[..., str], options: Hub) -> None:
    a, b = push(), push()
    parts = [{"model": a, "weight": 0.5}, {"model": b, "weight": 0.5}]
    outer = [{"recipe": {"ingredients": parts}, "weight": 0.5}, {"model": a, "weight": 0.5}]
    assert weights(resolve(Recipe.from_dict({"ingredients": outer}), options)) == {a: 0.75, b: 0.25}


def test_a_recipe_can_be_the_base(push: Callable[..., str], options: Hub) -> None:
    one, other = push(), push()
    inner = push({"config.json": recipe_config(one, other)})
    found = resolve(mix(push(), push(), method="ties", base=inner), options)
    assert [entry["model"] for entry in found.base.recipe["ingredients"]] == [one, other]


def test_a_recipe_cannot_be_the_anchor(push: Callable[..., str], options: Hub) -> None:
    inner = push({"config.json": recipe_config(push(), push())})
    with pytest.raises(RecipeError, match=rf"(?s)`anchor` names '{inner}', which is itself a recipe.*Mix it first"):
        resolve(mix(push(), push(), anchor=inner), options)


def test_config_and_tokenizer_come_from_where_the_nested_recipe_takes_them(
    push: Callable[..., str], options: Hub
) -> None:
    a, b, c = push(), push(), push()
    inner = push({"config.json": recipe_config(a, b, tokenizer=b, dtype="bfloat16")})
    first = resolve(mix(inner, c), options)
    assert (first.config, first.tokenizer, first.dtype) == (a, b, "bfloat16")
    named = resolve(mix(c, inner, config=inner, tokenizer=inner), options)
    assert (named.config, named.tokenizer, named.dtype) == (a, b, "auto")
    other = resolve(mix(inner, c, config=c, tokenizer=c, dtype="float32"), options)
    assert (other.config, other.tokenizer, other.dtype) == (c, c, "float32")
    last = resolve(mix(c, inner), options)
    assert (last.config, last.tokenizer) == (c, c)


# -- the anchor ----------------------------------------------------------------------------------------------------


def test_the_anchor_is_added_in_front(push: Callable[..., str], options: Hub) -> None:
    a, b, c = push(), push(), push()
    resolved = resolve(mix(a, b, weights=[0.75, 0.25], anchor={"model": c, "share": 0.5}), options)
    assert [(i.model, i.weight) for i in resolved.ingredients] == [(c, 0.5), (a, 0.375), (b, 0.125)]
    assert resolved.anchor is None
    assert resolved.to_dict()["evidence"] == {"anchor": {"model": c, "share": 0.5}}
    assert as_resolved(resolved).digest


def test_an_anchor_among_the_ingredients_gets_the_sum(push: Callable[..., str], options: Hub) -> None:
    a, b = push(), push()
    resolved = resolve(mix(a, b, weights=[0.75, 0.25], anchor={"model": b, "share": 0.5}), options)
    assert [(i.model, i.weight) for i in resolved.ingredients] == [(b, 0.625), (a, 0.375)]


def test_an_anchor_on_itself_is_a_model_mixed_with_itself(push: Callable[..., str], options: Hub) -> None:
    a = push()
    resolved = resolve(mix(a, anchor={"model": a, "share": 0.25}), options)
    assert [(i.model, i.weight) for i in resolved.ingredients] == [(a, 0.25), (a, 0.75)]


def test_an_anchor_gives_config_and_tokenizer_even_before_a_nested_recipe(
    push: Callable[..., str], options: Hub
) -> None:
    a, b, c = push(), push(), push()
    inner = push({"config.json": recipe_config(a, b, weights=[0.5, 0.5], dtype="float32")})
    resolved = resolve(mix(inner, b, weights=[0.5, 0.5], anchor={"model": c, "share": 0.5}), options)
    assert resolved.ingredients[0].model == c
    assert (resolved.config, resolved.tokenizer, resolved.dtype) == ("first", "first", "auto")


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_an_anchor_may_be_all_or_nothing(push: Callable[..., str], options: Hub, share: float) -> None:
    a, b, c = push(), push(), push()
    resolved = resolve(mix(a, b, anchor={"model": c, "share": share}), options)
    assert resolved.weights == (share, (1 - share) / 2, (1 - share) / 2)


def test_an_anchor_waits_for_weights_that_are_still_open(push: Callable[..., str], options: Hub) -> None:
    a, b, c = push(), push(), push()
    opened = resolve(mix(a, b, weighting={"rule": "uniform"}, anchor=c), options)
    assert opened.weights is None
    assert opened.anchor is not None
    weighed = with_weights(opened, [0.75, 0.25], {"rule": "softmax"})
    assert [(i.model, i.weight) for i in weighed.ingredients] == [(c, 0.5), (a, 0.375), (b, 0.125)]
    assert weighed.to_dict()["evidence"] == {"rule": "softmax", "anchor": {"model": c, "share": 0.5}}
    assert weighed.weighting is None
    assert as_resolved(weighed).digest


def test_the_base_of_an_adapter_as_anchor_is_kept(push: Callable[..., str], options: Hub, api: HfApi) -> None:
    base, a = push(), push()
    adapter = push(adapter_files(base))
    first = resolve(mix(a, anchor=adapter), options).ingredients[0]
    assert first == Ingredient(
        model=adapter,
        revision=head(api, adapter),
        requested="main",
        base=ModelReference(model=base, revision=head(api, base), requested="main"),
        weight=0.5,
    )


def test_resolving_loads_no_torch_and_no_transformers() -> None:
    code = """
import sys, cocktail_hub.resolve.resolve
print(sorted({"torch", "transformers", "numpy"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
