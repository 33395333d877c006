"""OHIF in a headless browser, against a real Orthanc, shows the masks and the heatmap where they are.

Needs Orthanc with its DICOMweb plugin, Chromium, Playwright, and the built viewer of the npm package @ohif/app:
`npm pack @ohif/app`, unpack it, and name its `package/dist` in LUNGNODE_OHIF.
"""

from __future__ import annotations

import io
import json
import mimetypes
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from engine.findings import Findings
from engine.volume import Volume
from reporting import ReportContext, ReportOptions, build
from reporting.phantom_case import PhantomCase, make_case

pytestmark = [pytest.mark.orthanc, pytest.mark.timeout(900)]

DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
CASE = PhantomCase(slices=24, matrix=128, lesion_slices=20, lesions=2, step=8.0)
"""One lesion in the lower half of the right lung, one in the upper half of the left: each slice shows one of them."""
BROWSER_FLAGS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
SOURCE = {
    "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
    "sourceName": "dicomweb",
    "configuration": {
        "friendlyName": "test",
        "name": "test",
        **dict.fromkeys(("wadoUriRoot", "qidoRoot", "wadoRoot"), "/dicom-web"),
        "qidoSupportsIncludeField": False,
        "imageRendering": "wadors",
        "thumbnailRendering": "wadors",
        "enableStudyLazyLoad": True,
        "supportsWildcard": True,
        "omitQuotationForMultipartRequest": True,
        "bulkDataURI": {"enabled": True},
    },
}
VIEWER = {
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 1,
    "showLoadingIndicator": True,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "dicomweb",
    "dataSources": [SOURCE],
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an Orthanc with DICOMweb that lives as long as the module."""
    if shutil.which("Orthanc") is None or not DICOMWEB.exists():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed")
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    configuration = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(DICOMWEB)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/system", folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"no answer from {url}: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="module")
def viewer(orthanc: str) -> Iterator[str]:
    """URL of OHIF, served as a web server in front of Orthanc would."""
    dist = Path(os.environ.get("LUNGNODE_OHIF", "/nonexistent"))
    if not (dist / "index.html").is_file():
        pytest.skip("LUNGNODE_OHIF does not name the dist folder of the npm package @ohif/app")
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(dist, orthanc))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(10)


def handler(dist: Path, orthanc: str) -> type[BaseHTTPRequestHandler]:
    """Serves the viewer; passes /dicom-web on."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            if path.startswith("/dicom-web"):
                self.answer(*fetched(orthanc + self.path, self.headers))
            elif path == "/app-config.js":
                self.answer(200, "text/javascript", f"window.config = {json.dumps(VIEWER)};".encode())
            else:
                file = dist / path.lstrip("/")
                file = file if file.is_file() else dist / "index.html"
                kind = "application/wasm" if file.suffix == ".wasm" else mimetypes.guess_type(file.name)[0]
                self.answer(200, kind or "application/octet-stream", file.read_bytes())

        def answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Quiet."""

    return Handler


def fetched(url: str, headers) -> tuple[int, str, bytes]:
    passed = {name: headers[name] for name in ("Accept", "Range") if name in headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=passed), timeout=120) as reply:
            return reply.status, reply.headers.get("Content-Type", ""), reply.read()
    except urllib.error.HTTPError as error:
        return error.code, "text/plain", error.read()


@pytest.fixture(scope="module")
def study(orthanc: str) -> tuple[Findings, Volume]:
    """A phantom study with its results, in Orthanc."""
    findings, volume = make_case(CASE)
    context = ReportContext(
        datetime(2026, 1, 2, 12),
        settings_hash="0",
        software_version="0",
        options=ReportOptions(parametric_map="full", deflated=True),
    )
    files = [ct_file(volume, z) for z in range(len(volume.sources))]
    files += [result.encoded for result in build(findings, volume, context, ("seg", "pm"))]
    for file in files:
        request = urllib.request.Request(f"{orthanc}/instances", data=file, method="POST")
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert json.load(reply)["Status"] == "Success"
    return findings, volume


def ct_file(volume: Volume, z: int) -> bytes:
    image = Dataset()
    image.update(volume.header_of(z))
    image.PixelData = (volume.hu[z].astype(np.int32) + 1024).astype(np.uint16).tobytes()
    image["PixelData"].VR = "OW"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, image, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def page(viewer: str, study: tuple[Findings, Volume], chromium):
    """The study, opened in the viewer, its guided tour skipped."""
    browser = chromium(*BROWSER_FLAGS)
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    tab.set_default_timeout(180_000)
    tab.goto(f"{viewer}/viewer?StudyInstanceUIDs={study[1].study_instance_uid}")
    tab.get_by_text("Skip all").click()
    yield tab
    browser.close()


def body_box(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, width and height of the phantom's body in a picture: its bright pixels."""
    bright = (pixels.min(axis=2) > 180).nonzero()
    top, left = bright[0].min(), bright[1].min()
    return left, top, bright[1].max() + 1 - left, bright[0].max() + 1 - top


def coloured_center(page, picture: Path) -> np.ndarray:
    """Centroid (x, y) of what is coloured in the viewport, as shares of the slice; waits until something is.

    The scale is told by the phantom's body, which is 0.92 of the slice wide and 0.72 high.
    """
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        page.wait_for_timeout(1000)
        inside = body(page, picture)
        rows, columns = (np.ptp(inside, axis=2) > 60).nonzero()
        if len(rows) > 50:
            height, width = inside.shape[:2]
            return np.array(
                [0.04 + 0.92 * (columns.mean() + 0.5) / width, 0.14 + 0.72 * (rows.mean() + 0.5) / height]
            )
    raise AssertionError("nothing coloured came up in the viewer")


def body(page, picture: Path) -> np.ndarray:
    """The part of a screenshot that shows the phantom's body, int [rows, columns, 3]."""
    page.screenshot(path=picture)
    pixels = np.asarray(Image.open(picture).convert("RGB"), dtype=int)[60:790, 300:1225]
    left, top, width, height = (int(v) for v in body_box(pixels))
    return pixels[top : top + height, left : left + width]


def warmth(inside: np.ndarray, center: np.ndarray, beside: float = 0.0) -> float:
    """Red less blue near a point, `beside` to its right (shares of the slice): the viewer shows high values in red."""
    height, width = inside.shape[:2]
    x, y = int((center[0] + beside - 0.04) / 0.92 * width), int((center[1] - 0.14) / 0.72 * height)
    reach = width // 100
    red, _, blue = inside[y - reach : y + reach, x - reach : x + reach].reshape(-1, 3).mean(axis=0)
    return float(red - blue)


def lung_center(inside: np.ndarray, side: str) -> float:
    """Mean grey in the middle of one lung, where a lesion would be: dark without one."""
    height, width = inside.shape[:2]
    x = int(((0.30 if side == "left" else 0.70) - 0.04) / 0.92 * width)
    y, reach = height // 2, width // 100
    return float(inside[y - reach : y + reach, x - reach : x + reach].mean())


def kept(picture: Path) -> Path:
    """Also put into LUNGNODE_PICTURES, from where the documentation takes it."""
    folder = os.environ.get("LUNGNODE_PICTURES")
    if folder:
        shutil.copy(picture, Path(folder) / picture.name)
    return picture


def test_segmentation_lies_over_the_lesion(page, study: tuple[Findings, Volume], tmp_path: Path) -> None:
    findings, _ = study
    page.get_by_text("AI lesions - NOT VERIFI").first.dblclick()
    page.get_by_role("button", name="Yes").first.click()
    center = coloured_center(page, tmp_path / "ohif-seg.png")
    kept(tmp_path / "ohif-seg.png")
    # The viewer jumps to the first slice of the series with a lesion: the last but two of the volume.
    z = CASE.slices - int(re.findall(r"I:\s*(\d+)", page.inner_text("body"))[0])
    rows, columns = findings.lesion_labels[z].nonzero()
    expected = (np.array([columns.mean(), rows.mean()]) + 0.5) / CASE.matrix
    assert np.abs(center - expected).max() < 1.5 / CASE.matrix


@pytest.mark.slow
def test_parametric_map_lies_over_the_lesion(page, study: tuple[Findings, Volume], tmp_path: Path) -> None:
    """The slice is told by the CT under the map, not by the viewer's words: the halves show different lesions."""
    findings, _ = study
    page.wait_for_selector("canvas")
    page.get_by_text("AI JCS activation map").first.dblclick()
    coloured_center(page, tmp_path / "ohif-pm.png")
    page.mouse.move(760, 420)
    seen = set()
    for turns in (-5, 10):
        for _ in range(abs(turns)):
            page.mouse.wheel(0, 100 if turns > 0 else -100)
            page.wait_for_timeout(400)
        center = coloured_center(page, tmp_path / "ohif-pm.png")
        kept(tmp_path / "ohif-pm.png")
        side = "left" if center[0] < 0.5 else "right"
        label = 1 if side == "left" else 2
        z = findings.lesions[label - 1].largest_slice
        rows, columns = (findings.jcs.activation_maps[z] > 0.3).nonzero()
        expected = (np.array([columns.mean(), rows.mean()]) + 0.5) / 64
        assert np.abs(center - expected).max() < 1.5 / 64
        # High in the middle and low around: values out of the viewer's range are all red, or noise.
        inside = body(page, tmp_path / "map.png")
        assert warmth(inside, expected) > 0 > warmth(inside, expected, beside=0.1)
        # Each slice has one lesion. Were the map on another slice, the CT would show its own beside it, uncovered.
        assert lung_center(body(page, tmp_path / "ct.png"), "right" if side == "left" else "left") < 70
        seen.add(side)
    assert seen == {"left", "right"}
