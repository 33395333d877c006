"""The page as a person uses it, in Chromium: mouse, keyboard, phone, dark; and its pictures for the documentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}


def _keep(visitor: Any, folder: Path | None, name: str, *, full: bool = True) -> None:
    picture = visitor.page.screenshot(full_page=full)
    assert picture[:4] == b"\x89PNG"
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(picture)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_shows_without_a_complaint(
    visit: Callable[..., Any], shown_site: Any, pictures: Path | None, scheme: str
) -> None:
    visitor = visit(color_scheme=scheme)
    study = shown_site.node.studies["ill"]
    for name, address in {
        "overview": "/",
        "studies": "/studies",
        "study": f"/studies/{study}",
        "destinations": "/destinations",
        "packages": "/packages",
        "configuration": "/configuration",
    }.items():
        visitor.go(address)
        assert visitor.page.locator("h1").count() >= 1
        _keep(visitor, pictures, f"page-{name}-{scheme}")
    assert visitor.problems == []


def test_the_pages_fit_a_phone(visit: Callable[..., Any], shown_site: Any, pictures: Path | None) -> None:
    visitor = visit(**PHONE)
    study = shown_site.node.studies["ill"]
    for name, address in {"overview": "/", "studies": "/studies", "study": f"/studies/{study}"}.items():
        visitor.go(address)
        width = visitor.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"{name} is {width} wide"
        hidden = (
            "[...document.querySelectorAll('.card:not(:has(.scroll))')]"
            ".filter(card => card.scrollWidth > card.clientWidth + 1).length"
        )
        assert visitor.page.evaluate(hidden) == 0, f"{name}: a card is wider than the screen"
        _keep(visitor, pictures, f"page-{name}-phone")


def test_the_slider_shows_other_slices_and_layers_can_be_taken_off(
    visit: Callable[..., Any], shown_site: Any
) -> None:
    visitor = visit()
    visitor.go(f"/studies/{shown_site.node.studies['ill']}")
    page = visitor.page
    slider = page.get_by_label("Slice", exact=True)
    before = page.locator(".ct").get_attribute("src")
    slider.focus()
    page.keyboard.press("ArrowRight")
    after = page.locator(".ct").get_attribute("src")
    assert before != after
    shown = page.locator('.layer[data-layer="lesion"]')
    assert shown.is_visible()
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    page.get_by_label("Lesions").uncheck()
    assert not shown.is_visible()
    page.get_by_role("button", name="1", exact=True).first.click()
    assert visitor.problems == []


def test_a_study_of_300_slices_answers_before_its_pictures_are_there(
    visit: Callable[..., Any], long_study: str
) -> None:
    """The slider works as soon as the page is laid out; it asks for the slice shown and a few beside it only."""
    visitor = visit()
    page, asked = visitor.page, []
    page.on("request", lambda request: asked.append(request.url) if "/slices/ct/" in request.url else None)
    page.goto(f"{visitor.url}/studies/{long_study}", wait_until="domcontentloaded")
    assert page.content().count("/slices/ct/") == 1
    slider = page.get_by_label("Slice", exact=True)
    before = page.locator(".ct").get_attribute("src")
    slider.press("ArrowRight")
    assert page.locator(".ct").get_attribute("src") != before
    assert page.locator(".ct").evaluate("image => image.decode().then(() => image.naturalWidth)") == 512
    page.wait_for_load_state("networkidle")
    assert 2 <= len(set(asked)) <= 12
    slider.press("End")
    assert page.locator(".place").inner_text().startswith("300 / 300")
    assert visitor.problems == []


def test_a_study_is_found_by_typing(visit: Callable[..., Any], shown_site: Any) -> None:
    expect = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed").expect
    visitor = visit()
    visitor.go("/studies")
    page = visitor.page
    assert page.locator("tbody tr").count() == len(shown_site.node.studies)
    page.get_by_label("Find").press_sequentially(shown_site.node.studies["short"])
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(1)
    assert "skipped" in page.locator("tbody tr").inner_text()
    assert shown_site.node.studies["short"] in page.url
    page.get_by_label("Find").fill("")
    expect(rows).to_have_count(len(shown_site.node.studies))
    page.locator('.chip:has-text("failed")').click()
    expect(rows).to_have_count(1)
    assert visitor.problems == []


def test_skip_asks_first_and_can_be_left_by_the_keyboard(visit: Callable[..., Any], shown_site: Any) -> None:
    visitor = visit()
    uid = shown_site.node.studies["complete"]
    visitor.go(f"/studies/{uid}")
    page = visitor.page
    page.get_by_role("link", name="Skip", exact=True).focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.get_by_role("link", name="Skip", exact=True).click()
    dialog.get_by_label("Why").fill("sent by mistake")
    dialog.get_by_role("button", name="Skip").click()
    page.wait_for_url("**?done=skip")
    assert "sent by mistake" in page.locator(".timeline").inner_text()
    assert "admin admin" in page.locator(".timeline").inner_text()
    assert visitor.problems == []


def test_echo_tells_who_answers(visit: Callable[..., Any]) -> None:
    visitor = visit()
    visitor.go("/destinations")
    cards = visitor.page.locator(".destination")
    archive = cards.filter(has_text="ARCHIVE")
    archive.get_by_role("button", name="Echo").click()
    archive.locator(".echo .dot.good").wait_for()
    ward = cards.filter(has_text="WARD")
    ward.get_by_role("button", name="Echo").click()
    ward.locator(".echo .dot.bad").wait_for()


def test_a_viewer_sees_no_names_and_no_buttons(visit: Callable[..., Any], shown_site: Any) -> None:
    visitor = visit("viewer")
    visitor.go("/studies")
    assert "Phantom" not in visitor.page.content()
    visitor.go(f"/studies/{shown_site.node.studies['ill']}")
    text = visitor.page.content()
    assert "Phantom" not in text and "PHANTOM" not in text
    assert visitor.page.locator(".actions").count() == 0


def test_the_theme_button_stays(visit: Callable[..., Any]) -> None:
    visitor = visit(color_scheme="light")
    visitor.page.get_by_role("button", name="Light or dark").click()
    visitor.go("/studies")
    assert visitor.page.evaluate("document.documentElement.dataset.theme") == "dark"
    color = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(int(part) for part in color[4:-1].split(",")) < 150
