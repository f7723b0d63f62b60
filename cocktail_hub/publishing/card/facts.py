"""What a card says that the recipe does not know: what kind of repo it is for, and what came out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cocktail_hub.publishing.card.license import LicenseInfo

Kind = Literal["merged", "recipe", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """Everything a card needs besides the resolved recipe. Models are named as in the recipe."""

    kind: Kind
    """`merged`: weights; `recipe`: no weights; `both`: weights whose `recipe.json` is offered as a recipe, too."""
    repo_id: str | None = None
    """`org/name` on the Hub; `None` while the card lies in a local folder."""
    library: Literal["transformers", "sentence-transformers"] = "transformers"
    """The library that the mixed model is for."""
    pipeline_tag: str | None = None
    """Hub task, e.g. `text-generation`."""
    architecture: str | None = None
    """Class of the model in config.json, e.g. `BertModel`."""
    load_classes: tuple[str, ...] = ("AutoModel",)
    """Classes with which users load it, best first, e.g. `SentenceTransformer`, `AutoModel`."""
    processor: str | None = "AutoTokenizer"
    """Class that loads the preprocessing, e.g. `AutoProcessor`; `None`: there is none."""
    licenses: Mapping[str, LicenseInfo | None] = field(default_factory=dict)
    """Model -> licence; `None` or no entry: it declares none."""
    languages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Model -> languages of its card."""
    parameters: int | None = None
    """Number of parameters of the mix."""
    dtype: str | None = None
    """Type of its floating-point tensors, e.g. `bfloat16`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Package -> version that made the mix."""
    notes: tuple[str, ...] = ()
    """Sentences on what was dequantised, dropped or taken from one ingredient only."""

    @property
    def library_name(self) -> str:
        """`library_name` of the card: a repo without weights needs cocktail_hub, whatever the model is for."""
        return "cocktail-hub" if self.kind == "recipe" else self.library
