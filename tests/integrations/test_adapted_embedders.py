"""Adapters of sentence-transformers: their folder says how embeddings are made, and holds modules of its own."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from embedders import KINDS, build
from huggingface_hub import HfApi
from models import ORG, TEXTS, TOKEN, fill
from peft import LoraConfig
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from cocktail_hub import MixOptions, Recipe, mix, publish
from cocktail_hub.compat.check import check_models
from cocktail_hub.errors import CheckpointError, IncompatibleError
from cocktail_hub.hub import Hub
from cocktail_hub.merge.materialize import materialize
from cocktail_hub.resolve.resolve import resolve

if TYPE_CHECKING:
    from pathlib import Path

    from cocktail_hub.testing import LoopbackHub

pytestmark = [
    pytest.mark.whole,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),  # what peft says as it saves
]


def embedder(kind: str, root: Path, seed: int = 1) -> Path:
    """A whole model in a folder."""
    model = fill(build(kind, root / f"{kind}-parts"), seed)
    model.save_pretrained(str(root / kind), create_model_card=False)
    return root / kind


def bare(kind: str, root: Path) -> Path:
    """The same transformer without any modules."""
    whole = embedder(kind, root)
    for path in [*whole.glob("*_*/"), *whole.glob("*sentence*"), whole / "modules.json"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return whole


def adapter(base: Path | str, kind: str, root: Path, seed: int = 2) -> Path:
    """An adapter whose factors and modules were trained, with the modules of `kind`."""
    folder = embedder(kind, root / "adapted", seed=1)
    model: Any = KINDS[kind](str(folder), device="cpu")
    model.add_adapter(LoraConfig(r=2, target_modules=["query"], inference_mode=False))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name or "linear" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(str(root / f"{kind}-adapter"), create_model_card=False)
    rewrite(root / f"{kind}-adapter", base_model_name_or_path=str(base))
    return root / f"{kind}-adapter"


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def embeddings(folder: Path | str) -> torch.Tensor:
    return torch.as_tensor(SentenceTransformer(str(folder), device="cpu").encode(list(TEXTS)))


def alone(adapted: Path | str, base: Path | str) -> dict[str, Any]:
    return {"ingredients": [{"model": str(adapted), "weight": 1.0}, {"model": str(base), "weight": 0.0}]}


def test_a_dense_module_that_was_trained_with_the_adapter_is_the_one_that_is_mixed(tmp_path: Path) -> None:
    base = embedder("dense", tmp_path)
    adapted = adapter(base, "dense", tmp_path)
    made = mix(alone(adapted, base), output=tmp_path / "mix")
    dense = [load_file(folder / "2_Dense" / "model.safetensors") for folder in (made.path, adapted, base)]
    assert torch.equal(dense[0]["linear.weight"], dense[1]["linear.weight"])
    assert not torch.equal(dense[1]["linear.weight"], dense[2]["linear.weight"])
    torch.testing.assert_close(embeddings(made.path), embeddings(adapted), rtol=0, atol=1e-6)


def test_the_dense_module_of_an_adapter_is_averaged_with_that_of_its_base(tmp_path: Path) -> None:
    base = embedder("dense", tmp_path)
    adapted = adapter(base, "dense", tmp_path)
    halves = {"ingredients": [{"model": str(model), "weight": 0.5} for model in (base, adapted)]}
    made = mix(halves, output=tmp_path / "mix")
    mixed, one, two = (
        load_file(folder / "2_Dense" / "model.safetensors")["linear.weight"] for folder in (made.path, base, adapted)
    )
    torch.testing.assert_close(mixed, (one + two) / 2, rtol=0, atol=1e-7)


def test_an_adapter_of_a_bare_transformer_brings_its_pooling(tmp_path: Path) -> None:
    base = bare("cls", tmp_path)
    adapted = adapter(base, "cls", tmp_path)
    made = mix(alone(adapted, base), output=tmp_path / "mix")
    modules = json.loads((made.path / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
    assert modules == json.loads((adapted / "modules.json").read_text())
    torch.testing.assert_close(embeddings(made.path), embeddings(adapted), rtol=0, atol=1e-6)


def test_an_adapter_with_modules_leaves_out_those_of_its_base(tmp_path: Path) -> None:
    base = embedder("dense", tmp_path)
    (base / "LICENSE").write_text("as you like")
    adapted = adapter(base, "cls", tmp_path)
    made = mix(alone(adapted, base), output=tmp_path / "mix")
    assert not (made.path / "2_Dense").exists()
    assert (made.path / "LICENSE").read_text() == "as you like"
    torch.testing.assert_close(embeddings(made.path), embeddings(adapted), rtol=0, atol=1e-6)


def test_an_adapter_without_modules_has_those_of_its_base(tmp_path: Path) -> None:
    base = embedder("cls", tmp_path)
    adapted = adapter(base, "cls", tmp_path)
    expected = embeddings(adapted)
    for path in [*adapted.glob("*_*/"), *adapted.glob("*sentence*"), adapted / "modules.json"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    made = mix(alone(adapted, base), output=tmp_path / "mix")
    torch.testing.assert_close(embeddings(made.path), expected, rtol=0, atol=1e-6)


def on_hub(name: str, root: Path, *, pickled: bool = False) -> tuple[str, str, torch.Tensor]:
    """Repos of an adapter with a Dense module and of its base, and the embeddings of the adapter."""
    base = embedder("dense", root)
    adapted = adapter(base, "dense", root)
    if pickled:
        file = adapted / "2_Dense" / "model.safetensors"
        torch.save(load_file(file), file.with_name("pytorch_model.bin"))
        file.unlink()
    expected = embeddings(adapted)
    names = f"{ORG}/{name}-adapter", f"{ORG}/{name}-base"
    rewrite(adapted, base_model_name_or_path=names[1])
    api = HfApi(token=TOKEN)
    for repo, folder in zip(names, (adapted, base), strict=True):
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder)
    return *names, expected


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickled"])
@pytest.mark.parametrize("low_disk", [False, True], ids=["downloaded", "low disk"])
def test_modules_of_an_adapter_come_from_its_repo(
    hub: LoopbackHub, tmp_path: Path, low_disk: bool, pickled: bool
) -> None:
    adapted, base, expected = on_hub(f"modules-{low_disk}-{pickled}", tmp_path, pickled=pickled)
    options = MixOptions(hub=Hub(cache_dir=tmp_path / "cache"), low_disk=low_disk)
    made = mix(alone(adapted, base), output=tmp_path / "mix", options=options)
    torch.testing.assert_close(embeddings(made.path), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", ["recipe", "merged"])
def test_a_published_mix_has_the_modules_of_the_adapter(hub: LoopbackHub, tmp_path: Path, form: str) -> None:
    adapted, base, expected = on_hub(f"shared-{form}", tmp_path)
    publish(alone(adapted, base), f"{ORG}/shared-{form}-mix", as_=form, token=TOKEN)
    torch.testing.assert_close(embeddings(f"{ORG}/shared-{form}-mix"), expected, rtol=0, atol=1e-6)


def test_an_adapter_is_scored_with_its_own_modules(tmp_path: Path) -> None:
    base = embedder("dense", tmp_path)
    adapted = adapter(base, "dense", tmp_path)
    pinned = resolve(Recipe.from_dict(alone(adapted, base)), Hub())
    checked = check_models(pinned, Hub())
    (tmp_path / "scratch").mkdir()
    folder = materialize(checked.models[0], 0, checked.components, tmp_path / "scratch")
    torch.testing.assert_close(embeddings(folder), embeddings(adapted), rtol=0, atol=1e-6)


def test_a_base_without_the_dense_module_of_the_adapter_is_refused(tmp_path: Path) -> None:
    base = bare("dense", tmp_path)
    adapted = adapter(base, "dense", tmp_path)
    with pytest.raises(IncompatibleError, match=r"it has no weights in '2_Dense', a module of '.*dense-adapter'"):
        mix(alone(adapted, base), output=tmp_path / "mix")


def test_a_changed_module_makes_another_mix(tmp_path: Path) -> None:
    base = embedder("dense", tmp_path)
    adapted = adapter(base, "dense", tmp_path)
    before = resolve(Recipe.from_dict(alone(adapted, base)), Hub()).ingredients[0].digest
    shutil.copy(base / "2_Dense" / "model.safetensors", adapted / "2_Dense" / "model.safetensors")
    assert resolve(Recipe.from_dict(alone(adapted, base)), Hub()).ingredients[0].digest != before


def test_modules_that_have_the_transformer_elsewhere_than_the_adapter_are_refused(tmp_path: Path) -> None:
    base = embedder("cls", tmp_path)
    adapted = adapter(base, "cls", tmp_path)
    modules = json.loads((adapted / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (adapted / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=r"has the transformer in '0_Transformer', but its adapter is in the"):
        mix(alone(adapted, base), output=tmp_path / "mix")
