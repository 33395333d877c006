"""Profiles are lists of objects, and every stand-in is built with what it stands in for."""

from __future__ import annotations

from reporting.context import OBJECT_KINDS
from reporting.profiles import FALLBACKS, PROFILES, expanded, with_fallbacks


def test_profiles_and_kinds_mix_without_repeats() -> None:
    assert expanded(["modern", "sc", "seg"]) == ("seg", "gsps", "pm", "pm_m3", "sr", "kos", "sc")
    assert expanded(["seg", "gsps", "pm", "sr"]) == ("seg", "gsps", "pm", "sr")
    assert expanded([]) == ()


def test_everything_is_everything_but_the_stand_ins() -> None:
    assert set(PROFILES["everything"]) | set(FALLBACKS.values()) == set(OBJECT_KINDS)


def test_legacy_has_what_any_archive_shows() -> None:
    assert {"sc", "pdf", "gsps"} <= set(PROFILES["legacy"])
    assert "seg" not in PROFILES["legacy"]


def test_stand_ins_are_built_too() -> None:
    assert with_fallbacks(["seg", "sr"]) == ("seg", "sr", "sr_enhanced")
    assert with_fallbacks(["seg"]) == ("seg",)
