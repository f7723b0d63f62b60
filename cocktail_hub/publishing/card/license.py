"""Licences: read those of the ingredients, and derive what follows for the mix. Never a guess."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cocktail_hub.publishing.card.markdown import code, escape, listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NOTICE_ONLY = frozenset(
    {
        *("bsd", "bsd-2-clause", "bsd-3-clause", "bsl-1.0", "isc", "mit", "ncsa", "postgresql", "zlib"),
        *("cc0-1.0", "pddl", "unlicense", "wtfpl"),
    }
)
"""Licences that require no more than their notice, so a work that contains such a part may be under any other."""
_MAY_CONTAIN_APACHE = frozenset(("agpl-3.0", "gpl-3.0"))
"""Licences that may contain Apache-2.0 parts, according to the Apache and Free Software Foundations."""
_NO_DERIVATIVES = re.compile(r"(^|-)nd(-|$)|no-?deriv")
_NO_COMMERCE = re.compile(r"(^|-)nc(-|$)|non-?commercial|research")
_OWN_TERMS = re.compile(r"^(llama|gemma|grok|lfm|deepfloyd|falcon)|rail|community|terms|^other$")
_LLAMA_NAME = re.compile(r"^llama-?[3-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class LicenseInfo:
    """The licence that one model's card declares."""

    license: str
    """Hub licence id in lower case, e.g. `apache-2.0`, or `other`; several are joined by a comma."""
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
        """Equal for equal licences. An `other` one without a name is identified by its link alone."""
        return self.link or "other" if self.label == "other" else self.label.casefold()

    @property
    def terms(self) -> str:
        """Id and name as one word with hyphens, in which terms such as `nc` can be recognised."""
        return f"{self.license} {self.name or ''}".lower().replace(" ", "-").replace(",-", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class License:
    """What follows from the ingredients' licences for the mix."""

    license: str | None = None
    """Hub licence id; `None` if an ingredient has none, because then nobody may license the mix."""
    license_name: str | None = None
    """Name of an `other` licence: lower case, digits, dots and hyphens."""
    license_link: str | None = None
    """Address of an `other` licence."""
    note: str = ""
    """Markdown for the card: where the licence comes from and what it forbids."""
    conflict: bool = False
    """Whether no single licence covers the mix, or one of them forbids sharing it."""


def license_of(metadata: Mapping[str, Any]) -> LicenseInfo | None:
    """Read the licence in the metadata of a card; `None` if it names none, or says `unknown`."""
    named = metadata.get("license")
    ids = [one.strip().lower() for one in (named if isinstance(named, list) else [named]) if isinstance(one, str)]
    ids = [one for one in ids if one not in ("", "unknown")]
    name, link = (
        value.strip() or None if isinstance(value := metadata.get(f"license_{key}"), str) else None
        for key in ("name", "link")
    )
    return LicenseInfo(license=", ".join(ids), name=name, link=link) if ids else None


def combine_licenses(licenses: Mapping[str, LicenseInfo | None]) -> License:
    """Derive the licence of a mix.

    Args:
        licenses: model -> its licence, or `None` if it declares none; in recipe order.

    Returns:
        The one licence that all share, or that the others may be part of; else `other`, the names of all, and a
        note that says so. No licence if an ingredient has none. The note also names terms that forbid commercial use
        or adapted versions, and licences with terms of use of their own.
    """
    if not licenses:
        return License(note="The licences of the ingredients were not read.")
    models: dict[str, list[str]] = {}
    infos: dict[str, LicenseInfo] = {}  # the first of each, by its key
    for model, info in licenses.items():
        if info is not None:
            infos.setdefault(info.key, info)
            models.setdefault(info.key, []).append(model)
    without = [escape(model) for model, info in licenses.items() if info is None]
    if without:
        declares = "declares" if len(without) == 1 else "declare"
        result = License(
            note=f"{listing(without)} {declares} no licence, so this card declares none for the mix: without a "
            "licence, the authors have given nobody the right to share it. Ask them."
        )
    else:
        result = _combined(list(infos.values()))
    warnings = [_warning(info, models[key]) for key, info in infos.items()]
    forbidden = any(_NO_DERIVATIVES.search(info.terms) for info in infos.values())
    note = " ".join(filter(None, [result.note, *warnings]))
    return replace(result, note=note, conflict=result.conflict or forbidden)


def _combined(infos: Sequence[LicenseInfo]) -> License:
    """Derive the licence of models that all declare one; each of `infos` differs from the others."""
    restrictive = [info for info in infos if info.license not in NOTICE_ONLY]
    if len(restrictive) == 2:  # noqa: PLR2004
        rest = [info for info in restrictive if info.license != "apache-2.0"]
        if len(rest) == 1 and rest[0].license in _MAY_CONTAIN_APACHE:
            restrictive = rest
    covering = restrictive[0] if len(restrictive) == 1 else infos[0] if len(infos) == 1 else None
    names = [] if covering is None else [covering.label]
    # A `license_name` has the form that the Hub wants, e.g. `llama2-and-gemma`.
    slug = "-and-".join(
        re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-") or "unnamed"
        for label in names or [i.label for i in infos]
    )
    if covering is None:
        return License(
            license="other",
            license_name=slug,
            note=f"The ingredients are under different licences, {listing([code(info.label) for info in infos])}, and "
            "no single one of them covers the mix. All of them apply to it: check that they are compatible before you "
            "use or share it.",
            conflict=True,
        )
    note = f"All ingredients are under {code(covering.label)}."
    if len(infos) > 1:
        others = listing([code(info.label) for info in infos if info is not covering])
        note = (
            f"{others} may be part of a work under {code(covering.label)}, which is the licence of the mix; the "
            "notices of all of them have to be kept."
        )
    if covering.license == "other" or "," in covering.license:
        return License(license="other", license_name=slug, license_link=covering.link, note=note)
    return License(license=covering.license, note=note)


def _warning(info: LicenseInfo, models: Sequence[str]) -> str:
    said = {
        "does not allow sharing adapted versions, and a mix is one": _NO_DERIVATIVES.search(info.terms),
        "limits commercial use": _NO_COMMERCE.search(info.terms),
        "has terms of its own that bind whoever uses or shares the mix": _OWN_TERMS.search(info.license),
        "requires that the name of a derived model begins with `Llama`": _LLAMA_NAME.search(info.label.lower()),
    }
    found = [words for words, match in said.items() if match]
    return f"{code(info.label)} ({listing([escape(model) for model in models])}) {listing(found)}." if found else ""
