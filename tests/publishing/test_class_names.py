"""The auto classes of transformers give for a recipe repo, and for the mix, what they give for an ingredient."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import models
import pytest
import transformers

from cocktail_hub import publish
from cocktail_hub.publishing.class_names import name_classes

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def speech(folder: Path) -> None:
    """A wav2vec2 with a head of letters."""
    config = transformers.Wav2Vec2Config(
        **SMALL, vocab_size=6, conv_dim=[8], conv_stride=[5], conv_kernel=[10], num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, num_feat_extract_layers=1,
    )  # fmt: skip
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5}))
    (folder / "tokenizer_config.json").write_text("{}")


def vision(folder: Path) -> None:
    config = transformers.ViTConfig(**SMALL, image_size=8, patch_size=4)
    transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder)


def text_and_vision(folder: Path) -> None:
    size = {"image_size": 8, "patch_size": 4}
    config = transformers.CLIPConfig(text_config=SMALL | {"vocab_size": 32}, vision_config=SMALL | size)
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size=8).save_pretrained(folder)
    models.words_tokenizer().save_pretrained(folder)


def without_types(folder: Path) -> None:
    """Remove what older repos do not have."""
    for path in folder.glob("*.json"):
        if path.name != "config.json":
            values = json.loads(path.read_text())
            for key in ("feature_extractor_type", "image_processor_type", "processor_class"):
                values.pop(key, None)
            path.write_text(json.dumps(values))


def settings(auto: str, source: str) -> dict[str, Any]:
    """The classes that an auto class gives, and how they are set."""
    found = getattr(transformers, auto).from_pretrained(source)
    parts = [
        found,
        *(getattr(found, name) for name in ("feature_extractor", "image_processor") if hasattr(found, name)),
    ]
    return {
        type(part).__name__: {k: v for k, v in part.to_dict().items() if isinstance(v, (int, float, list))}
        for part in parts
        if hasattr(part, "to_dict")
    } | {"class": type(found).__name__}


@pytest.mark.whole
@pytest.mark.parametrize(
    ("make", "autos"),
    [
        (speech, {"AutoFeatureExtractor": "Wav2Vec2FeatureExtractor", "AutoProcessor": "Wav2Vec2Processor"}),
        (vision, {"AutoImageProcessor": "ViTImageProcessorPil", "AutoProcessor": "ViTImageProcessorPil"}),
        (text_and_vision, {"AutoImageProcessor": "CLIPImageProcessorPil", "AutoProcessor": "CLIPProcessor"}),
    ],
)
def test_processors_that_are_found_by_the_model_type_are_found_in_a_recipe_repo(
    make: Any, autos: dict[str, str], tmp_path: Path
) -> None:
    ids = [f"{models.ORG}/classes-{make.__name__}-{letter}".replace("_", "-") for letter in "ab"]
    for repo_id in ids:
        folder = tmp_path / repo_id
        make(folder)
        without_types(folder)
        models.push(folder, repo_id)
    recipe = {"ingredients": [{"model": model, "weight": 0.5} for model in ids]}
    for form in ("recipe", "merged"):
        publish(recipe, f"{ids[0]}-{form}", as_=form, token=models.TOKEN)  # type: ignore[arg-type]
        for auto, name in autos.items():
            own = settings(auto, ids[0])
            assert own["class"] == name
            assert settings(auto, f"{ids[0]}-{form}") == own


def written(folder: Path, **files: dict[str, Any]) -> dict[str, Any]:
    """What is in the files after their classes are named."""
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    name_classes(folder)
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in files}


def test_classes_that_are_named_stay_and_so_does_own_code(tmp_path: Path) -> None:
    named = {"feature_extractor_type": "Mine", "processor_class": "MyProcessor"}
    found = written(tmp_path, config={"model_type": "whisper"}, preprocessor_config=named)
    assert found["preprocessor_config"] == named
    own = {"auto_map": {"AutoFeatureExtractor": "code.Mine", "AutoProcessor": "code.MyProcessor"}}
    found = written(tmp_path, config={"model_type": "whisper"}, preprocessor_config=own)
    assert found["preprocessor_config"] == own


def test_a_class_that_the_config_names_comes_before_that_of_the_model_type(tmp_path: Path) -> None:
    config = {"model_type": "wav2vec2", "processor_class": "Wav2Vec2ProcessorWithLM"}
    found = written(tmp_path, config=config, preprocessor_config={"do_normalize": True})
    assert found["preprocessor_config"] == {
        "do_normalize": True,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "processor_class": "Wav2Vec2ProcessorWithLM",
    }


def test_images_and_sounds_of_one_file_have_a_class_each(tmp_path: Path) -> None:
    found = written(
        tmp_path, config={"model_type": "qwen2_5_omni"}, preprocessor_config={}, video_preprocessor_config={}
    )
    assert found["preprocessor_config"]["feature_extractor_type"] == "WhisperFeatureExtractor"
    assert found["preprocessor_config"]["image_processor_type"].startswith("Qwen2VLImageProcessor")
    assert found["preprocessor_config"]["processor_class"] == "Qwen2_5OmniProcessor"


@pytest.mark.whole
@pytest.mark.parametrize("model_type", ["bert", "unknown", None])
def test_a_preprocessor_of_another_library_is_left_alone(tmp_path: Path, model_type: str | None) -> None:
    assert written(tmp_path, config={"model_type": model_type}, preprocessor_config={})["preprocessor_config"] == {}
