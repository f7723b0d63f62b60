"""What the licences of the ingredients mean for the mix."""

from __future__ import annotations

import pytest

from cocktail_hub.publishing.card.facts import License, LicenseInfo, combine_licenses, license_of

MIT = LicenseInfo(license="mit")
APACHE = LicenseInfo(license="apache-2.0")
LLAMA2 = LicenseInfo(license="llama2")


def _combined(*infos: LicenseInfo | None) -> License:
    return combine_licenses({f"org/{'abcd'[i]}": info for i, info in enumerate(infos)})


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"license": " MIT "}, MIT),
        ({"license": "apache-2.0"}, APACHE),
        ({"license": ["mit"]}, MIT),
        ({"license": ["mit", "apache-2.0"]}, LicenseInfo(license="mit, apache-2.0")),
        (
            {"license": "other", "license_name": " Own terms ", "license_link": "LICENSE"},
            LicenseInfo(license="other", name="Own terms", link="LICENSE"),
        ),
        ({"license": "unknown"}, None),
        ({"license": ""}, None),
        ({"license": 3}, None),
        ({}, None),
    ],
)
def test_a_licence_is_read_from_the_metadata_of_a_card(
    metadata: dict[str, object], expected: LicenseInfo | None
) -> None:
    assert license_of(metadata) == expected


def test_the_same_licence_everywhere_is_the_licence_of_the_mix() -> None:
    assert _combined(MIT, MIT) == License(license="mit", note="All ingredients are under `mit`.")


def test_a_licence_that_asks_for_its_notice_only_gives_way_to_the_other() -> None:
    combined = _combined(MIT, APACHE, LicenseInfo(license="bsd-3-clause"))
    assert (combined.license, combined.license_name, combined.conflict) == ("apache-2.0", None, False)
    assert combined.note == (
        "`mit` and `bsd-3-clause` may be part of a work under `apache-2.0`, which is the licence of the mix; the "
        "notices of all of them have to be kept."
    )


@pytest.mark.parametrize(
    ("other", "expected"),
    [("gpl-3.0", "gpl-3.0"), ("gpl-2.0", "other"), ("llama2", "other"), ("cc-by-sa-4.0", "other")],
)
def test_apache_gives_way_only_where_that_is_beyond_doubt(other: str, expected: str) -> None:
    combined = _combined(APACHE, LicenseInfo(license=other))
    assert (combined.license, combined.conflict) == (expected, expected == "other")


def test_licences_that_do_not_reduce_to_one_are_all_named() -> None:
    combined = _combined(LLAMA2, LicenseInfo(license="gemma"), LLAMA2)
    assert combined == License(
        license="other",
        license_name="llama2-and-gemma",
        conflict=True,
        note="The ingredients are under different licences, `llama2` and `gemma`, and no single one of them covers the "
        "mix. All of them apply to it: check that they are compatible before you use or share it. "
        "`llama2` (org/a and org/c) has terms of its own that bind whoever uses or shares the mix. "
        "`gemma` (org/b) has terms of its own that bind whoever uses or shares the mix.",
    )


def test_two_notice_only_licences_are_not_reduced_to_one_of_them() -> None:
    assert _combined(MIT, LicenseInfo(license="isc")).license_name == "mit-and-isc"


def test_no_licence_on_one_ingredient_means_none_for_the_mix() -> None:
    combined = _combined(MIT, None, None)
    assert (combined.license, combined.license_name, combined.conflict) == (None, None, False)
    assert combined.note.startswith("org/b and org/c declare no licence, so this card declares none for the mix")


def test_no_licence_does_not_hide_what_the_others_forbid() -> None:
    assert "`cc-by-nc-4.0` (org/b) limits commercial use." in _combined(None, LicenseInfo(license="cc-by-nc-4.0")).note


@pytest.mark.parametrize(
    "info",
    [
        LicenseInfo(license="cc-by-nc-4.0"),
        LicenseInfo(license="cc-by-nc-sa-4.0"),
        LicenseInfo(license="other", name="FAIR Noncommercial Research License"),
        LicenseInfo(license="other", name="qwen-research"),
    ],
)
def test_non_commercial_terms_are_named_though_all_agree(info: LicenseInfo) -> None:
    assert "limits commercial use" in _combined(info, info).note


def test_a_licence_without_derivatives_is_a_conflict_though_all_agree() -> None:
    info = LicenseInfo(license="cc-by-nc-nd-4.0")
    combined = _combined(info, info)
    assert (combined.license, combined.conflict) == ("cc-by-nc-nd-4.0", True)
    assert "does not allow sharing adapted versions, and a mix is one and limits commercial use" in combined.note


@pytest.mark.parametrize(
    "name", ["llama2", "llama3.1", "gemma", "openrail", "bigcode-openrail-m", "creativeml-openrail-m"]
)
def test_licences_with_terms_of_use_are_named(name: str) -> None:
    info = LicenseInfo(license=name)
    note = _combined(info, MIT).note
    assert f"`{name}` (org/a) has terms of its own" in note
    assert ("begins with `Llama`" in note) == (name == "llama3.1")


def test_other_licences_are_the_same_by_name() -> None:
    first = LicenseInfo(license="other", name="Own Terms", link="https://a.example/terms")
    combined = _combined(first, LicenseInfo(license="other", name="own terms", link="https://b.example/terms"))
    assert (combined.license, combined.license_name) == ("other", "own-terms")
    assert combined.license_link == "https://a.example/terms"
    assert not combined.conflict


def test_a_licence_is_the_same_by_id_and_as_the_name_of_another() -> None:
    combined = _combined(LicenseInfo(license="llama3"), LicenseInfo(license="other", name="Llama3", link="LICENSE"))
    assert (combined.license, combined.conflict) == ("llama3", False)


def test_a_name_beside_a_licence_of_the_hub_does_not_count() -> None:
    assert _combined(MIT, LicenseInfo(license="mit", name="MIT License", link="LICENSE")) == _combined(MIT, MIT)


def test_other_licences_without_a_name_are_the_same_by_link_only() -> None:
    here, there = (LicenseInfo(license="other", link=f"https://{host}.example/terms") for host in ("a", "b"))
    assert _combined(here, here).conflict is False
    assert _combined(here, there).conflict is True


def test_several_licences_on_one_model_are_not_chosen_from() -> None:
    info = LicenseInfo(license="mit, apache-2.0")
    combined = _combined(info, info)
    assert (combined.license, combined.license_name) == ("other", "mit-apache-2.0")


def test_a_name_cannot_break_out_of_the_note() -> None:
    info = LicenseInfo(license="other", name="x` <!-- y\n# z")
    assert "``x` <!-- y # z``" in _combined(info, info).note
    assert _combined(info, info).license_name == "x-y-z"
