"""A node tells nobody that it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print(event, arguments)

sys.addaudithook(refuse)
import engine.runners.openvino_runner
import threading
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(5)
print("imported", "openvino" in sys.modules)
"""


def test_the_import_of_openvino_sends_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["imported True"]
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []
