"""Load the folder of a mix with the library it belongs to: transformers or sentence-transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cocktail_hub.checking.kinds import Kind, kind_of
from cocktail_hub.checkpoint.contents import read_config, read_json, read_modules
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.errors import RecipeError, SourceError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

AUTO_CLASS_OF_TASK = {
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "text-classification": "AutoModelForSequenceClassification",
    "text-ranking": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "feature-extraction": "AutoModel",
    "sentence-similarity": "AutoModel",
    "image-classification": "AutoModelForImageClassification",
    "image-feature-extraction": "AutoModel",
    "image-text-to-text": "AutoModelForImageTextToText",
    "automatic-speech-recognition": "AutoModelForSpeechSeq2Seq",
    "audio-classification": "AutoModelForAudioClassification",
    "zero-shot-image-classification": "AutoModel",
}
"""Hub task -> the class of transformers that loads a model for it."""


def folder_kind(folder: Path, task: str | None = None) -> Kind:
    """Tell what the model in a folder is, from its files."""
    files = LocalFiles(folder)
    modules = read_modules(files)
    name = "config_sentence_transformers.json"
    embedder = read_json(files, name) if name in files.sizes else {}
    main = str(modules[0]["path"]) if modules else ""
    return kind_of(read_config(files, main), modules, embedder, task)


def model_class(folder: Path, task: str | None = None) -> Any:
    """The class that loads a folder: what its config names, or transformers' class for `task`.

    Raises:
        RecipeError: `task` is unknown.
        SourceError: the folder has no transformers model.
    """
    import transformers

    if task is not None:
        if task not in AUTO_CLASS_OF_TASK:
            raise RecipeError(f"Unknown `task` {task!r}. {did_you_mean(task, AUTO_CLASS_OF_TASK)}")
        return getattr(transformers, AUTO_CLASS_OF_TASK[task])
    kind = folder_kind(folder)
    if not kind.model_type:
        raise SourceError(
            f"The mix in '{folder}' has no transformers model in it (no `model_type` in config.json).\n"
            "It can be loaded by sentence-transformers alone.\nUse `mix(...).load_sentence_transformer()`."
        )
    return getattr(transformers, kind.architecture, None) or transformers.AutoModel


def load_model(folder: Path, task: str | None = None, *model_args: Any, **kwargs: Any) -> Any:
    """Load the folder of a mix as an ordinary transformers model, with the arguments of its `from_pretrained`."""
    return model_class(folder, task).from_pretrained(str(main_folder(folder)), *model_args, **kwargs)


def main_folder(folder: Path) -> Path:
    """Where the transformer of a mix lies: the folder itself but for old sentence-transformers layouts."""
    return folder / next((str(module["path"]) for module in read_modules(LocalFiles(folder))), "")


def load_sentence_transformer(folder: Path, **kwargs: Any) -> Any:
    """Load the folder of a mix with the class of sentence-transformers that it was saved by."""
    import sentence_transformers

    name = folder_kind(folder).sentence_transformers or "SentenceTransformer"
    return getattr(sentence_transformers, name)(str(folder), **kwargs)


def config_of(values: Mapping[str, Any]) -> Any:
    """The values of a config.json as a config of transformers."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**values)


def load_cross_encoder(folder: Path, **kwargs: Any) -> Any:
    """Load the folder of a mix as a reranker."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), **kwargs)
