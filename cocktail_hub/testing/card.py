"""The metadata at the head of a README: reading it, and the Hub's opinion of it."""

from __future__ import annotations

import re
from typing import Any

_HEAD = re.compile(r"^\s*---\r?\n(.*?)(?:\r?\n)?---\s*?(?:\r?\n|$)", re.DOTALL)
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?", re.ASCII)

_TEXT_OR_TEXTS = ("license", "base_model", "datasets", "metrics")
_TEXTS = ("library_name", "pipeline_tag", "license_name", "license_link")
_RELATIONS = ("adapter", "finetune", "merge", "quantized")

_LICENSES_PAGE = "https://huggingface.co/docs/hub/repositories-licenses"

# fmt: off
_LICENSES = frozenset({
    "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
    "cdla-sharing-1.0", "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0",
    "eupl-1.1", "eupl-1.2", "fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0",
    "h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3", "llama3.1",
    "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1",
    "open-mdw", "openrail", "openrail++", "osl-3.0", "other", "pddl", "postgresql", "unknown", "unlicense", "wtfpl",
    "zlib",
})
# fmt: on
"""The list on that page, and the families that were added to it since it was copied."""


def read_metadata(readme: str) -> dict[str, Any] | None:
    """The YAML at the head of a README; None if there is none.

    Raises:
        ValueError: it is not valid YAML, or not a mapping.
    """
    import yaml

    head = _HEAD.match(readme)
    if head is None:
        return None
    try:
        value = yaml.safe_load(head[1])
    except yaml.YAMLError as error:
        raise ValueError(f"Invalid YAML: {error}") from error
    if value is not None and not isinstance(value, dict):
        raise ValueError("The metadata must be a mapping of names to values")
    return value or {}


def problems_in(readme: str) -> tuple[list[str], list[str]]:
    """What the Hub would refuse in a README's metadata, and what it would only frown at."""
    try:
        metadata = read_metadata(readme)
    except ValueError as error:
        return [str(error)], []
    if metadata is None:
        return [], ["empty or missing yaml metadata in repo card"]
    errors = [] if isinstance(metadata.get("model-index", []), list) else ['"model-index" must be an array']
    errors += [] if _texts(metadata.get("tags", [])) else ['"tags" must be an array of strings']
    errors += [f'"{key}" must be a string' for key in _TEXTS if not isinstance(metadata.get(key, ""), str)]
    for key in _TEXT_OR_TEXTS:
        if not _texts(_as_list(metadata.get(key, []))):
            errors.append(f'"{key}" must be a string or an array of strings')
    wrong = [name for name in _as_list(metadata.get("license", [])) if name not in _LICENSES]
    errors += [f'"license" must be one of those at {_LICENSES_PAGE}, got {name!r}' for name in wrong]
    errors += [
        f'"base_model" with value {name!r} is not valid. Use a model id from the Hub.'
        for name in _as_list(metadata.get("base_model", []))
        if not _REPO_ID.fullmatch(str(name))
    ]
    if metadata.get("base_model_relation", "merge") not in _RELATIONS:
        errors.append(f'"base_model_relation" must be one of {list(_RELATIONS)}')
    return errors, []


def tags_of(metadata: dict[str, Any]) -> list[str]:
    """The tags under which the Hub lists a repo with this metadata."""
    tags = [str(tag) for tag in metadata.get("tags") or []]
    tags += [str(metadata[key]) for key in ("library_name", "pipeline_tag") if metadata.get(key)]
    tags += [f"license:{name}" for name in _as_list(metadata.get("license") or [])]
    tags += [f"dataset:{name}" for name in _as_list(metadata.get("datasets") or [])]
    bases = _as_list(metadata.get("base_model") or [])
    relation = metadata.get("base_model_relation") or ("merge" if len(bases) > 1 else "finetune")
    tags += [f"base_model:{base}" for base in bases]
    tags += [f"base_model:{relation}:{base}" for base in bases]
    return list(dict.fromkeys(tags))


def _as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
