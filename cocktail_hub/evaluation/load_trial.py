"""Tries to load a mix without its weights: do its tokenizer and processor load, and does its class know its tensors?

transformers starts tensors that a checkpoint lacks at random and leaves out those that it does not know, with no more
than a warning. The small files and the plan's shapes tell before there are weights. What fails loudly, for the
ingredients as for the mix, is only noted. `load_check.py` runs this beside the merge.
"""

from __future__ import annotations

import gc
import json
import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cocktail_hub.checkpoint.conversion.model_names import CanonicalModel
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.checkpoint.model_files import MODULES, read_config, read_json
from cocktail_hub.compat.vocabulary import group_of
from cocktail_hub.errors import IncompatibleError
from cocktail_hub.evaluation.loading import auto_class_name, model_class, narrowed
from cocktail_hub.recipe.task import TASKS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LOADERS = {
    "tokenizer": ("AutoTokenizer",),
    "processor": ("AutoProcessor", "AutoImageProcessor", "AutoFeatureExtractor"),
}
"""Group of small files -> classes of transformers, one of which must load it."""
_MODULE_SETTINGS = "sentence_bert_config.json"
"""In the folder of a transformer that is a module of sentence-transformers."""
_MODULE_CLASSES = {
    "feature-extraction": "AutoModel",
    "fill-mask": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "text-generation": "AutoModelForCausalLM",
}
"""`transformer_task` of a module of sentence-transformers -> the class that it loads."""
_GENERATES = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration)$")
"""Ends of the names of classes that do any task in words, without a head for it."""
_SPARED = re.compile(r"^pooler\.|(^|\.)(masked_spec_embed|mask_token)$")
"""Tensors for training alone, or for those who ask for them: the pooler of a model without a head."""
_OPTIONAL = ("accelerate", "kernels", "pandas", "peft", "scipy", "sklearn")
"""Packages that transformers imports where it finds them, and that no model needs to be built."""
_SHOWN = 200
"""Characters of another library's error in a sentence."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is tried, as JSON values."""

    name: str
    """The first ingredient, for messages."""
    folder: str
    """The folder of the mix, with its small files."""
    shapes: Mapping[str, Mapping[str, Sequence[int]]]
    """Posix path of each folder with weights in the mix -> tensor -> shape."""
    task: str | None = None
    """The recipe's."""
    trust_remote_code: bool = False
    """Whether code that the mix carries or names may be run."""
    givers: Mapping[str, str] = field(default_factory=dict)
    """A key of `LOADERS` -> folder with these files as the ingredient that gives them has them."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of it."""

    error: str = ""
    """Why the mix must not be finished, in three lines."""
    tensor: str = ""
    """A tensor that the error is about."""
    notes: tuple[str, ...] = ()
    """What is worth knowing, a sentence each."""
    sure: bool = True
    """Whether everything could be tried; another attempt may come to another end if not."""


def try_loading(request: Request) -> Verdict:
    """Try whether a mix would load as what it says it is."""
    notes: list[str] = []
    doubts: list[str] = []
    try:
        for folder, shapes in request.shapes.items():
            place = Path(request.folder, folder)
            config = read_config(LocalFiles(place))
            if not config.get("model_type"):  # static embeddings, or a module, which is loaded whole or not at all
                continue
            doubts += _try_files(request, place)
            for loader, task in _loaders(request, place, config):
                try:
                    model = _model(loader, place, config)
                except Exception as error:  # noqa: BLE001 - each model validates its config in its own way
                    doubts.append(
                        f"The mix could not be tried as {loader.__name__}: {_line(error.__cause__ or error)}."
                    )
                else:
                    notes += _try_names(request, shapes, model, task)
    except IncompatibleError as error:
        return Verdict(error=str(error), tensor=error.tensor)
    return Verdict(notes=tuple(dict.fromkeys(notes + doubts)), sure=not doubts)


def _try_files(request: Request, place: Path) -> list[str]:
    """Load tokenizer and processor as a user would.

    Returns:
        A sentence for each that does not load, as its giver's does not either, or as far as that is known.

    Raises:
        IncompatibleError: the giver's loads.
    """
    doubts = []
    for group, classes in LOADERS.items():
        if not any(group_of(path.name) == group for path in place.iterdir()):
            continue
        if why := _failure(place, classes, trust=request.trust_remote_code):
            giver = request.givers.get(group)
            if giver and not _failure(Path(giver), classes, trust=request.trust_remote_code):
                raise IncompatibleError(
                    f"The {group} of the mix does not load, though that of its ingredient does: {why}.\n"
                    "A mix has the files that `save_pretrained` writes, and a config.json of its own.\n"
                    f"Save the {group} of the ingredient again, or name another model under `tokenizer`."
                )
            doubts.append(f"The {group} of the mix does not load here, as little as that of its ingredient: {why}.")
    return doubts


def _failure(place: Path, classes: Sequence[str], *, trust: bool) -> str:
    """Why none of these classes of transformers loads a folder; empty if one does."""
    import transformers

    reasons = []
    for name in classes:
        try:
            made = getattr(transformers, name).from_pretrained(str(place), trust_remote_code=trust)
        except Exception as error:  # noqa: BLE001 - each fails in its own way
            reasons.append(_line(error))
        else:
            if name != "AutoProcessor" or not isinstance(made, transformers.PreTrainedTokenizerBase):
                return ""
            reasons.append("it has no processor")  # `AutoProcessor` is content with a tokenizer
    return reasons[0]


def _loaders(request: Request, place: Path, config: Mapping[str, Any]) -> list[tuple[Any, str]]:
    """Classes that load a folder, each with the task that asks for it, which is empty for that of the folder's files.

    Auto classes are those that a model's own code belongs to.
    """
    import transformers

    architecture = str(next(iter(config.get("architectures") or ()), ""))
    if Path(request.folder, MODULES).is_file():
        files = LocalFiles(place)
        settings = read_json(files, _MODULE_SETTINGS) if _MODULE_SETTINGS in files.sizes else {}
        named = _MODULE_CLASSES.get(settings.get("transformer_task", "feature-extraction"))
        wanted = {"module": narrowed(getattr(transformers, named), architecture)} if named else {}
    else:
        wanted = {"": model_class(place)}
        if request.task and not _GENERATES.search(architecture):
            wanted[request.task] = narrowed(getattr(transformers, auto_class_name(request.task)), architecture)
    found: dict[Any, str] = {}
    for task, loader in wanted.items():
        code = config.get("auto_map")
        if request.trust_remote_code and isinstance(code, dict) and loader.__name__ in code:
            found.setdefault(loader, task)
        elif concrete := _concrete(loader, config, encoder=task == "module"):
            found.setdefault(concrete, task)
    return list(found.items())


def _concrete(loader: Any, config: Mapping[str, Any], *, encoder: bool) -> Any:
    """The class that an auto class loads a config with, `None` if there is none; `encoder`: without a decoder."""
    import transformers

    if not hasattr(loader, "_model_mapping"):
        return loader
    if config["model_type"] not in transformers.CONFIG_MAPPING:
        return None
    known = transformers.CONFIG_MAPPING[config["model_type"]]
    if known not in loader._model_mapping:  # noqa: SLF001 - the one table of them
        return None
    found = loader._model_mapping[known]  # noqa: SLF001
    if isinstance(found, tuple | list):
        found = next((cls for cls in found if cls.__name__ in (config.get("architectures") or ())), found[0])
    alone = f"{found.__name__.removesuffix('Model')}EncoderModel"
    return getattr(transformers, alone, found) if encoder else found


def _model(loader: Any, place: Path, config: Mapping[str, Any]) -> CanonicalModel:
    """Build the model of a folder without weights, by its own code if an auto class has to load it."""
    import torch
    import transformers

    if not hasattr(loader, "_model_mapping"):
        return CanonicalModel({**config, "architectures": [loader.__name__]}, name=str(place))
    own = transformers.AutoConfig.from_pretrained(str(place), trust_remote_code=True)
    with torch.device("meta"):
        built = loader.from_config(own, trust_remote_code=True)
    return CanonicalModel(config, name=str(place), built=built)


def _try_names(
    request: Request, shapes: Mapping[str, Sequence[int]], model: CanonicalModel, task: str
) -> tuple[str, ...]:
    """Compare the tensors of the mix with those of a class.

    Returns:
        Sentences about tensors that one of the two lacks, but that need no value.

    Raises:
        IncompatibleError: tensors would start at random, or do not fit.
    """
    found = model.name_map({name: name for name in shapes})
    unread = [name for name, target in found.unknown.items() if not model.spares(target)]
    lacking = model.random(found)
    random = [name for name in lacking if not _SPARED.search(name)]
    if random:
        instead = f", and has {_listed(unread)} instead" if unread and not task else ""
        advice = (
            f"Leave out `task: {task}`, or mix models that were trained for it."
            if task in TASKS
            else "Load the ingredients with the code that saved them, save them with `save_pretrained`, and mix those."
            if unread
            else f"Mix models that were saved whole, or correct `architectures` in the config.json of '{request.name}'."
        )
        raise IncompatibleError(
            f"The mix is no {model.kind}: it lacks {_listed(random)}{instead}.\n"
            "transformers would start at random what is missing, and only warn, so the mix would not work.\n" + advice,
            tensor=random[0],
        )
    if misfit := model.misfit(found, shapes):
        name, shape, wanted = misfit
        raise IncompatibleError(
            f"The mix does not fit its config.json: '{name}' has shape {shape}, but {wanted} in such a {model.kind}.\n"
            "The mix would not load.\n"
            "Under `config`, name the ingredient whose config.json fits its weights, or correct that file.",
            tensor=name,
        )
    if task:
        return ()
    return (
        *([f"A {model.kind} starts {_listed(lacking)} at random, which no ingredient has."] if lacking else ()),
        *([f"A {model.kind} does not read {_listed(unread)}, which the mix has."] if unread else ()),
    )


def _listed(names: Sequence[str]) -> str:
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_SHOWN].rstrip(".") or type(error).__name__


def serve(*, light: bool) -> None:
    """Be the process that tries one request from stdin, and print the verdict as the last line, in JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr
    request = Request(**json.loads(sys.stdin.readline()))
    gc.disable()  # a fifth of the time of the imports
    if light:
        _leave_out()
    answers.write(f"\n{json.dumps(asdict(try_loading(request)))}\n")


def _leave_out() -> None:
    """Save half of the time: our own hooks, and what no model needs to be built, first values among it."""

    class Unneeded(ModuleType):
        __path__: list[str] = []  # noqa: RUF012 - a package

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda fn=None, *_, **__: fn if callable(fn) else lambda decorated: decorated

    sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("cocktail_hub")]
    for name in _OPTIONAL:
        sys.modules[name] = None  # type: ignore[assignment] # as if it were not installed
    for name in ("torch._meta_registrations", "torch.distributed._meta_registrations", "torch.export", "torch.nested"):
        sys.modules[name] = Unneeded(name)
    import torch

    for name in ("torch._dynamo", "torch._dynamo._trace_wrapped_higher_order_op"):
        sys.modules[name] = Unneeded(name)
    for name in dir(torch.nn.init):
        if name.endswith("_"):
            setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    torch.distributed.is_available = lambda: False
    torch._dynamo = sys.modules["torch._dynamo"]  # noqa: SLF001
