"""Licences: read those of the ingredients, and say what follows for the mix. Never a guess."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cocktail_hub.publishing.card.markdown import code, escape, listing
from cocktail_hub.publishing.card.metadata import read_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from huggingface_hub import CardData

NOTICE_ONLY = frozenset(
    (
        "bsd",
        "bsd-2-clause",
        "bsd-3-clause",
        "bsl-1.0",
        "cc0-1.0",
        "isc",
        "mit",
        "ncsa",
        "pddl",
        "postgresql",
        "unlicense",
        "wtfpl",
        "zlib",
    )
)
"""Ask for their notice at most, so that a work which contains them may be under any other licence."""
_TAKES_IN_APACHE = frozenset(("agpl-3.0", "gpl-3.0"))
"""Licences that may hold Apache-2.0 parts, by the word of the Apache and Free Software Foundations."""
_NO_COMMERCE = re.compile(r"(^|-)nc(-|$)|non-?commercial|research")
_NO_DERIVATIVES = re.compile(r"(^|-)nd(-|$)|no-?deriv")
_OWN_TERMS = re.compile(r"^(llama|gemma|grok|lfm|deepfloyd|falcon)|rail|community|terms|^other$")
_LLAMA_NAME = re.compile(r"^llama-?[3-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenseInfo:
    """What one model's card says about its licence."""

    license: str
    """Hub licence id in small letters, e.g. `apache-2.0`, or `other`; several are joined by a comma."""
    name: str | None = None
    """`license_name` of an `other` licence."""
    link: str | None = None
    """`license_link`: an address, or a file in the model's repo."""

    @property
    def label(self) -> str:
        """Name for people: the id, or the name of an `other` licence."""
        return self.name if self.name and self.license == "other" else self.license

    @property
    def key(self) -> str:
        """Equal for equal licences. An `other` one without a name is known by its link alone."""
        return self.link or "other" if self.label == "other" else self.label.casefold()

    def located(self, url: str) -> LicenseInfo:
        """The same with a link that works outside the model's repo, whose files are under `url`."""
        if self.link is None or "://" in self.link:
            return self
        return replace(self, link=f"{url}{self.link.removeprefix('./').lstrip('/')}")


@dataclass(frozen=True, slots=True, kw_only=True)
class License:
    """What follows from the ingredients' licences for the mix."""

    license: str | None = None
    """Hub licence id, or `None` where an ingredient has none: then nobody may give the mix one."""
    license_name: str | None = None
    """Name of an `other` licence: small letters, digits, dots and hyphens."""
    license_link: str | None = None
    """Address of an `other` licence."""
    note: str = ""
    """Sentences in Markdown for the card: where the licence comes from and what it forbids."""
    conflict: bool = False
    """Whether no single licence covers the mix, or one of them forbids sharing it."""


def license_of(card: str | Mapping[str, Any] | CardData | None) -> LicenseInfo | None:
    """The licence in a model card: text of a README, metadata of one, or the `card_data` of a `ModelInfo`.

    Returns:
        `None` where the card names no licence, or says that it is unknown.
    """
    data = read_metadata(card)
    named = data.get("license")
    ids = [one.strip().lower() for one in (named if isinstance(named, list) else [named]) if isinstance(one, str)]
    ids = [one for one in ids if one and one != "unknown"]
    if not ids:
        return None
    return LicenseInfo(
        license=", ".join(ids), name=_text(data.get("license_name")), link=_text(data.get("license_link"))
    )


def combine_licenses(licenses: Mapping[str, LicenseInfo | None]) -> License:
    """What follows for a mix of models under these licences.

    Args:
        licenses: model -> its licence, or `None` where it declares none; in recipe order.

    Returns:
        The one licence that all share, or that the others may be part of; else `other`, the names of all, and a
        note that says so. No licence at all where an ingredient has none. Whatever the result, the note names the
        terms that forbid commercial use or adapted versions, and the licences with terms of use of their own.
    """
    if not licenses:
        return License(note="The licences of the ingredients were not read.")
    holders = _holders(licenses)
    without = [model for model, info in licenses.items() if info is None]
    result = _undeclared(without) if without else _declared(list(holders))
    notes = [result.note, *(_warning(info, models) for info, models in holders.items())]
    forbidden = any(_NO_DERIVATIVES.search(_haystack(info)) for info in holders)
    return replace(result, note=" ".join(filter(None, notes)), conflict=result.conflict or forbidden)


def _holders(licenses: Mapping[str, LicenseInfo | None]) -> dict[LicenseInfo, list[str]]:
    """Each licence, as it is first met -> the models under it."""
    found: dict[str, tuple[LicenseInfo, list[str]]] = {}
    for model, info in licenses.items():
        if info is not None:
            found.setdefault(info.key, (info, []))[1].append(model)
    return dict(found.values())


def _undeclared(models: list[str]) -> License:
    declares = "declares" if len(models) == 1 else "declare"
    return License(
        note=f"{listing([escape(model) for model in models])} {declares} no licence, so this card declares none for "
        "the mix: without a licence, its authors have given nobody the right to share it. Ask them."
    )


def _declared(infos: list[LicenseInfo]) -> License:
    kept = _covering(infos)
    if kept is None:
        return _several(infos)
    if kept.license == "other" or "," in kept.license:
        shared = License(license="other", license_name=_slug([kept.label]), license_link=kept.link)
    else:
        shared = License(license=kept.license)
    if len(infos) == 1:
        return replace(shared, note=f"All ingredients are under {code(kept.label)}.")
    others = listing([code(info.label) for info in infos if info is not kept])
    return replace(
        shared,
        note=f"{others} may be part of a work under {code(kept.label)}, which is the licence of the mix; "
        "the notices of all of them have to be kept.",
    )


def _several(infos: list[LicenseInfo]) -> License:
    names = listing([code(info.label) for info in infos])
    return License(
        license="other",
        license_name=_slug([info.label for info in infos]),
        note=f"The ingredients are under different licences, {names}, and no single one of them covers the mix. "
        "All of them apply to it: check that they go together before you use or share it.",
        conflict=True,
    )


def _covering(infos: list[LicenseInfo]) -> LicenseInfo | None:
    """The licence that the whole mix can be under, where that is beyond doubt."""
    asking = [info for info in infos if info.license not in NOTICE_ONLY]
    if len(asking) == 2 and len(by_others := [info for info in asking if info.license != "apache-2.0"]) == 1:  # noqa: PLR2004
        asking = by_others if by_others[0].license in _TAKES_IN_APACHE else asking
    if len(asking) == 1:
        return asking[0]
    return infos[0] if len(infos) == 1 else None


def _warning(info: LicenseInfo, models: list[str]) -> str:
    who = f"{code(info.label)} ({listing([escape(model) for model in models])})"
    said = []
    if _NO_DERIVATIVES.search(_haystack(info)):
        said.append("does not allow sharing adapted versions, and a mix is one")
    if _NO_COMMERCE.search(_haystack(info)):
        said.append("limits commercial use")
    if _OWN_TERMS.search(info.license):
        said.append("has terms of its own that bind whoever uses or shares the mix")
    if _LLAMA_NAME.search(info.label.lower()):
        said.append("asks that the name of a model made from it begins with `Llama`")
    return f"{who} {listing(said)}." if said else ""


def _haystack(info: LicenseInfo) -> str:
    return f"{info.license} {info.name or ''}".lower().replace(" ", "-").replace(",-", "-")


def _slug(labels: Iterable[str]) -> str:
    """A `license_name` in the form the Hub wants, e.g. `llama2-and-gemma`."""
    return "-and-".join(re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-") or "unnamed" for label in labels)


def _text(value: Any) -> str | None:
    return value.strip() if isinstance(value, str) and value.strip() else None
