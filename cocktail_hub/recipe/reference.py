"""One checkpoint of a mix: which model, at which revision, with which weight."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from cocktail_hub.errors import RecipeError, SourceError
from cocktail_hub.recipe.tensor_rules import as_parameters, as_tensor_number
from cocktail_hub.recipe.validation import (
    LONGEST_SHOWN,
    as_json,
    as_list,
    as_mapping,
    as_number,
    as_text,
    as_whole,
    plain,
    reject_unknown,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A full git commit hash: the form of a resolved revision."""
CONTENT_DIGEST = re.compile(r"xxh128:[0-9a-f]{32}|sha256:[0-9a-f]{64}")
"""Digest over the files of a local folder: `resolve` writes the first kind and verifies either."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".ckpt")
"""Suffixes of files of weights, which are parts of a model."""
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_HUB_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)(?:/(?:tree|blob|resolve)/([^/?#]+))?",
    re.ASCII,
)


def is_path(model: str) -> bool:
    """Whether `model` is written as a path: `./name`, `../name`, `~/name`, `/name`, `C:name`."""
    return model.startswith((".", "~", "/")) or PureWindowsPath(model).drive != "" or "\\" in model


def as_path(name: str) -> Path:
    """A path of this machine, which need not exist, with the home folder in place of `~`.

    Raises:
        SourceError: no file can have it.
    """
    try:
        path = Path(name).expanduser() if name.startswith("~") else Path(name)  # which takes './~me' for '~me'
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:  # too long, not allowed, or the home of nobody
        shown = name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}..."
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(
            f"'{shown}' cannot be looked for on this machine: {reason}.\n"
            "So it is not known whether it is a folder or a repo on the Hub.\nCorrect the name, or move the folder."
        ) from error
    return path


def is_local(model: str) -> bool:
    """Whether `model` names a folder rather than a Hub repo: it is written as a path, or such a folder exists."""
    return is_path(model) or as_path(model).is_dir()


def refuse_address(name: str, key: str) -> None:
    """Refuse the address of a page of the Hub, and say which id it has.

    Raises:
        RecipeError: `name`, which the message calls `key`, is an address.
    """
    if found := _HUB_ADDRESS.match(name):
        shown = "@".join(filter(None, found.groups()))
        raise RecipeError(
            f"{key} must be a Hub id such as 'org/name', got the address '{name}'.\n"
            f"Repos are named by their ids, so that a mirror of the Hub works as well.\nWrite '{shown}'."
        )


def is_weight_file(path: Path) -> bool:
    """Whether this is a file of weights on this machine, which people take for the model."""
    return path.suffix in WEIGHT_SUFFIXES and path.is_file()


def as_layer_range(value: Any, key: str) -> tuple[int, int]:
    """Accept the first of some layers, and the one after the last."""
    ends = [as_whole(end, key, low=0) for end in as_list(value, key)]
    if len(ends) != len(("first", "stop")) or ends[0] >= ends[1]:
        raise RecipeError(
            f"`{key}` must be two numbers, the second one larger, got {ends}.\n"
            "They are the first layer, counted from 0, and the one after the last.\nWrite, e.g., [0, 16]."
        )
    return ends[0], ends[1]


@dataclass(frozen=True, kw_only=True)
class ModelReference:
    """A model at a revision: as requested, and once resolved, the exact commit or content.

    Raises:
        RecipeError: a value is of the wrong kind, or the values contradict each other.
    """

    model: str
    """Hub id (`org/name`) or local folder."""
    revision: str | None = None
    """Branch, tag or commit; `None` is the default branch. A 40-hex commit once resolved. Hub ids only."""
    requested: str | None = None
    """What `revision` was before it was resolved. Written by `resolve`."""
    digest: str | None = None
    """`xxh128:...` over the files of a local folder. Written by `resolve`; early recipes have `sha256:...`."""
    base: ModelReference | None = None
    """The model that a PEFT adapter adapts. Written by `resolve`; may be given where the adapter names none."""

    layer_range: tuple[int, int] | None = None
    """The first layer that is taken of it, counted from 0, and the one after the last. `None`: all layers."""
    recipe: Mapping[str, Any] | None = field(default=None, hash=False)
    """A recipe whose mix is meant, as JSON values; `model` is then only its name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", as_text(self.model, "model"))
        path = as_path(self.model)
        if self.layer_range is not None:
            object.__setattr__(self, "layer_range", as_layer_range(self.layer_range, f"layer_range of '{self.model}'"))
        for key in filter(lambda key: getattr(self, key) is not None, ("revision", "requested", "digest")):
            object.__setattr__(self, key, as_text(getattr(self, key), f"{key} of '{self.model}'"))
        if self.base is not None:
            object.__setattr__(self, "base", ModelReference.from_value(self.base, f"base of '{self.model}'"))
        if self.digest is not None and not CONTENT_DIGEST.fullmatch(self.digest):
            raise RecipeError(
                f"`digest` of '{self.model}' must be 'xxh128:' and 32 hex digits, or 'sha256:' and 64, "
                f"got {self.digest!r}."
            )
        if self.recipe is not None:
            object.__setattr__(self, "recipe", as_json(as_mapping(self.recipe, "recipe"), f"recipe of '{self.model}'"))
            if self.digest or self.base:
                raise RecipeError(
                    f"'{self.model}' has a `recipe`, and a `{'digest' if self.digest else 'base'}` beside it.\n"
                    "A recipe names the models that it is made from, and their digests.\nRemove one of the two."
                )
            return
        refuse_address(self.model, "`model`")
        if self.revision is None and is_weight_file(path):
            raise RecipeError(
                f"'{self.model}' is a file of weights, not a model.\n"
                "A model is a folder: weights can be mixed only together with their config.json.\n"
                f"Name the folder: '{path.absolute().parent}'."
            )
        if not self.local and not _HUB_ID.fullmatch(self.model):
            raise RecipeError(
                f"`model` must be a Hub id such as 'org/name' or a local folder, got {self.model!r}.\n"
                "Write a local folder as './name' or as an absolute path; give a branch or commit as `revision`."
            )
        if self.local and self.revision is not None:
            raise RecipeError(
                f"'{self.model}' is a local folder, but has the `revision` '{self.revision}'.\n"
                "Only models on the Hub have revisions.\nRemove it, or write the Hub id of the model."
            )

    @property
    def local(self) -> bool:
        """Whether this is a folder of this machine. With a revision, `org/name` is a repo, whatever folders exist."""
        if self.recipe is not None:
            return False
        by_name = is_local(self.model) if self.revision is None else is_path(self.model)
        return by_name or self.digest is not None

    @property
    def pinned(self) -> bool:
        """Whether this names exact content: a commit, or the digest of a folder."""
        exact = self.digest is not None or bool(self.revision and COMMIT.fullmatch(self.revision))
        return exact and (self.base is None or self.base.pinned)

    @property
    def label(self) -> str:
        """Name for messages: `org/name`, or `org/name@revision` where one was requested."""
        asked = self.requested or self.revision
        if not asked or asked == "main":
            return self.model
        return f"{self.model}@{asked[:12] if COMMIT.fullmatch(asked) else asked}"

    def to_dict(self) -> dict[str, Any]:
        """The keys that have a value, ready for JSON."""
        shown: dict[str, Any] = {}
        for f in fields(self):
            if (value := getattr(self, f.name)) is not None and value != {}:
                shown[f.name] = plain(value)
        return shown | ({"base": self.base.to_dict()} if self.base else {})

    def identity(self) -> dict[str, Any]:
        """What determines the content: the commit of a repo or the digest of a folder."""
        exact = {"digest": self.digest} if self.digest else {"model": self.model, "revision": self.revision}
        cut = {"layer_range": list(self.layer_range)} if self.layer_range else {}
        return exact | cut | ({"base": self.base.identity()} if self.base else {})

    @classmethod
    def from_value(cls, value: Any, key: str) -> Self:
        """Read `org/name`, `org/name@revision`, or a mapping with the keys of this class.

        Raises:
            RecipeError: a key is unknown or missing, or a value is of the wrong kind.
        """
        if type(value) is cls:
            return value
        if isinstance(value, ModelReference):
            return cls(**{f.name: getattr(value, f.name) for f in fields(ModelReference)})
        data: dict[str, Any] = {"model": value} if isinstance(value, str) else dict(as_mapping(value, key))
        if data.get("recipe") is not None:
            data = {"model": "recipe"} | data
        reject_unknown(data, [f.name for f in fields(cls)], f"`{key}`")
        if "model" not in data:
            raise RecipeError(f"`{key}` has no `model`. Give a Hub id such as 'org/name', or a local folder.")
        model = data["model"]
        if (
            isinstance(model, str)
            and "@" in model
            and "recipe" not in data
            and data.get("revision") is None
            and not is_local(model)
        ):
            data["model"], _, data["revision"] = model.partition("@")
        if data.get("base") is not None:
            data["base"] = ModelReference.from_value(data["base"], f"{key}.base")
        return cls(**{name: inner for name, inner in data.items() if inner is not None or name == "model"})


@dataclass(frozen=True, kw_only=True)
class Ingredient(ModelReference):
    """One checkpoint in the mix."""

    weight: Any = None
    """Weight in the mix, dimensionless: a float, or `PerTensor`. `None`: computed by the recipe's `weighting`."""
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Parameters of the method for this ingredient, in place of the recipe's."""

    def __post_init__(self) -> None:
        ModelReference.__post_init__(self)
        if self.weight is not None:
            object.__setattr__(self, "weight", as_tensor_number(self.weight, f"weight of '{self.model}'"))
        object.__setattr__(self, "parameters", as_parameters(self.parameters, f"parameters of '{self.model}'"))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as JSON values: read-only mappings cannot be pickled."""
        return type(self).from_value, (self.to_dict(), "ingredient")


@dataclass(frozen=True, kw_only=True)
class Anchor(ModelReference):
    """The model that LM-Cocktail stays close to: `share * anchor + (1 - share) * sum of the others`."""

    share: float = 0.5
    """Share of the anchor in the whole mix, in [0, 1]."""

    def __post_init__(self) -> None:
        ModelReference.__post_init__(self)
        object.__setattr__(self, "share", as_number(self.share, "anchor.share", low=0.0, high=1.0))
