"""How long the page of a study of 300 slices takes in a browser until its slice slider answers.

python benchmarks/study_page.py [--slices 300] [--rounds 9]

Each round is a browser window with nothing in its cache. Measured by the browser's own clock, from the begin of the
navigation: the first byte, the page laid out (DOMContentLoaded), and the slider moved, with the picture of the new
slice decoded. Page and browser, Debian's Chromium without a window, share this machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from long_study import UID, served, write_long_study
from playwright.sync_api import Browser, sync_playwright

from node.configuration import Configuration, WebUserConfiguration
from node.stand_in_pacs import free_port
from node.web.access import token_digest
from store.database import open_database
from store.migrations import upgrade

TOKEN = "measuring"
MOVE_THE_SLIDER = """async () => {
  for (;;) {
    const slider = document.querySelector("#slice"), picture = document.querySelector(".ct");
    if (slider && picture) {
      const before = picture.src;
      slider.value = String(Number(slider.value) + 1);
      slider.dispatchEvent(new Event("input", {bubbles: true}));
      if (picture.src !== before) { await picture.decode(); break; }
    }
    await new Promise((again) => setTimeout(again, 5));
  }
  const answered = performance.now(), [page] = performance.getEntriesByType("navigation");
  return [page.responseStart, page.domContentLoadedEventEnd, answered];
}"""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        sys.exit("Chromium is not installed; on Debian: apt install chromium")
    with tempfile.TemporaryDirectory(prefix="lungnode-page-") as name, sync_playwright() as playwright:
        folder = Path(name)
        url = f"sqlite:///{folder}/lungnode.db"
        upgrade(url)
        database = open_database(url)
        write_long_study(database, folder, datetime.now(UTC), arguments.slices)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        with served(_configuration(folder), database, lambda: datetime.now(UTC)) as address:
            rounds = [_round(browser, address) for _ in range(arguments.rounds)]
        browser.close()
        database.close()
    print("| from the begin of the navigation, ms | median | longest |")
    print("|---|---|---|")
    for what, times in zip(
        ("first byte", "page laid out", "slider answered"), zip(*rounds, strict=True), strict=True
    ):
        print(f"| {what} | {statistics.median(times):.0f} | {max(times):.0f} |")


def _configuration(folder: Path) -> Configuration:
    defaults = Configuration()
    user = WebUserConfiguration(name="ann", role="admin", token_sha256=token_digest(TOKEN))
    return defaults.model_copy(
        update={
            "storage": defaults.storage.model_copy(update={"path": folder}),
            "web": defaults.web.model_copy(update={"users": (user,), "port": free_port()}),
            "audit": defaults.audit.model_copy(update={"file": None}),
        }
    )


def _round(browser: Browser, address: str) -> tuple[float, ...]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{address}/login")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{address}/")
    page.goto(f"{address}/studies/{UID}", wait_until="commit")
    times = tuple(page.evaluate(MOVE_THE_SLIDER))
    context.close()
    return times


if __name__ == "__main__":
    main()
