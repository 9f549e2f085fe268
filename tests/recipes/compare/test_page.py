"""The report as people see it, in headless Chromium: wide, on a phone, dark and light."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ssl_transfer.cli.main import main

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.figures,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: Debian has it as the package of that name"),
]
SCRIPT = "<script>alert(1)</script>"
LOOK = """<script>
addEventListener("load", () => {
  const outside = [...document.querySelectorAll("body *")].filter(one => !one.parentElement.closest(".wide"));
  const images = [...document.images];
  parent.postMessage({
    width: innerWidth,
    widest: Math.max(document.documentElement.scrollWidth, ...outside.map(one => one.getBoundingClientRect().right)),
    scrolled: [...document.querySelectorAll(".wide")].filter(one => one.scrollWidth > one.clientWidth).length,
    images: images.length,
    shown: images.filter(one => one.complete && one.naturalWidth > 0 && one.getBoundingClientRect().width > 100).length,
    scripts: document.scripts.length,
    text: document.body.innerText,
    page: getComputedStyle(document.body).backgroundColor,
  }, "*");
});
</script>"""
# A window is 500 pixels wide at least; a frame in it is as narrow as a phone.
FRAME = """<!doctype html><script>
addEventListener("message", event => { document.documentElement.dataset.found = JSON.stringify(event.data); });
</script><iframe src="copy.html" style="border: 0; width: WIDTHpx; height: 2000px"></iframe>"""


def look(page: Path, folder: Path, *, width: int, dark: bool = False) -> tuple[dict, list[str]]:
    """Open a copy of the page that measures itself in Chromium; return the measures and the console."""
    (folder / "copy.html").write_text(page.read_text(encoding="utf-8") + LOOK, encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    answer = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *(f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--user-data-dir={folder / 'profile'}"),
            *("--enable-logging=stderr", "--v=0", "--window-size=1400,2000", "--dump-dom", frame.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(folder)},
    )
    found = re.search(r'data-found="([^"]*)"', answer.stdout)
    assert found, answer.stderr
    return json.loads(html.unescape(found[1])), [line for line in answer.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny: dict) -> Path:
    """The report of a comparison on images of a class with a bad name, and one with a long one."""
    folder = tmp_path_factory.mktemp("page")
    generator = np.random.default_rng(0)
    labels = np.repeat([SCRIPT, "a" * 120, "bee"], 24)
    pixels = generator.integers(0, 256, (len(labels), 4, 4), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    np.savez(folder / "images.npz", images=pixels, labels=labels)
    flags = (
        *("compare", "--data", f"npz:{folder / 'images.npz'}", "--arms", "simclr", "autoencoder", "--labels", "2", "4"),
        *("--seeds", "0", "1", *tiny["compare"], *tiny["convolutional"], "--batch-size", "32"),
        *("--loading.cache", folder / "cache", "--loading.near-duplicates", "free", "--output", folder / "run"),
    )
    main([str(flag) for flag in flags])
    return folder / "run" / "report.html"


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1000, True)])
def test_the_page_is_shown_whole(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    found, said = look(page, tmp_path, width=width, dark=dark)
    assert said == []
    assert found["width"] == width
    assert found["widest"] <= width
    assert (found["scrolled"] == 0) == (width == 1000)
    # Three of the results, two or four confusions, the map, and what the autoencoder painted.
    assert found["shown"] == found["images"] >= 3 + 2 + 1 + 1
    assert found["page"] == ("rgb(22, 24, 26)" if dark else "rgb(255, 255, 255)")
    # The one script is that of this test.
    assert found["scripts"] == 1
    assert SCRIPT in found["text"]
