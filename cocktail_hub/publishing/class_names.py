"""The classes of tokenizer and processors, which transformers may find by the model type, which a recipe repo lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cocktail_hub.merge.small_files import write_json

if TYPE_CHECKING:
    from pathlib import Path

_TOKENIZER = "tokenizer_config.json"
_PREPROCESSOR = "preprocessor_config.json"
_VIDEO = "video_preprocessor_config.json"
_NAMING_PROCESSOR = ("processor_config.json", _PREPROCESSOR, _VIDEO, _TOKENIZER)
"""Files that may name the class of the processor, in the order in which transformers looks."""


def name_classes(folder: Path) -> None:
    """Write the classes of tokenizer and processors into their files, where they are not named.

    The folder still has the ingredient's config.json.
    """
    config = _read(folder / "config.json")
    if not config:
        return
    _name_tokenizer(folder)
    _name_processors(folder, config)


def _name_tokenizer(folder: Path) -> None:
    """A tokenizer that cannot be loaded here, because it lacks files, code or a package, is left alone."""
    from transformers import AutoTokenizer

    config = _read(folder / _TOKENIZER)
    if "auto_map" in config:
        return
    try:
        name = type(AutoTokenizer.from_pretrained(str(folder), local_files_only=True)).__name__
    except Exception:  # noqa: BLE001 - each class raises what it likes
        return
    if str(config.get("tokenizer_class", "")).removesuffix("Fast") != name.removesuffix("Fast"):
        write_json(folder / _TOKENIZER, config | {"tokenizer_class": name})


def _name_processors(folder: Path, config: Mapping[str, Any]) -> None:
    from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

    classes = (
        ("AutoFeatureExtractor", "feature_extractor_type", FEATURE_EXTRACTOR_MAPPING_NAMES, (_PREPROCESSOR,)),
        ("AutoImageProcessor", "image_processor_type", IMAGE_PROCESSOR_MAPPING_NAMES, (_PREPROCESSOR,)),
        ("AutoVideoProcessor", "video_processor_type", VIDEO_PROCESSOR_MAPPING_NAMES, (_VIDEO,)),
        ("AutoProcessor", "processor_class", PROCESSOR_MAPPING_NAMES, _NAMING_PROCESSOR),
    )
    names = {path: _read(folder / path) for path in _NAMING_PROCESSOR if (folder / path).is_file()}
    for auto, key, table, paths in classes:
        present = [path for path in paths if path in names]
        own_code = any(auto in (names[path].get("auto_map") or {}) for path in present)
        found = table.get(config.get("model_type"))
        if isinstance(found, Mapping):  # one for each package that processes images
            found = found.get("torchvision") or found.get("pil")
        elif isinstance(found, (tuple, list)):
            found = next(filter(None, found), None)
        name = config.get(key) or found
        if present and name and not own_code and not any(names[path].get(key) for path in present):
            names[present[0]][key] = name
            write_json(folder / present[0], names[present[0]])


def _read(path: Path) -> dict[str, Any]:
    """A JSON mapping; empty where there is none."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
