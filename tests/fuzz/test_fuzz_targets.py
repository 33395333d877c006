"""Every place where foreign bytes come in: right inputs, damaged ones, and those that once broke something."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hostile_input import TARGETS, target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("LUNGNODE_FUZZ_EXAMPLES", "20"))
FOUND = Path(__file__).parent / "found"
GUIDED = "command_set"
"""The target on which a few guided runs cost least."""


@pytest.mark.parametrize("name", TARGETS)
def test_right_inputs_and_those_that_were_found(name: str, tmp_path: Path) -> None:
    fuzzed = target(name)
    found = [path.read_bytes() for path in sorted((FOUND / name).glob("*"))]
    with fuzzed.opened(tmp_path) as take:
        for data in [b"", *fuzzed.seeds(), *found]:
            take(data)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs(name: str, tmp_path: Path) -> None:
    fuzzed = target(name)
    seeds = [seed for seed in fuzzed.seeds() if seed]
    changes = st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=6)), max_size=5)
    with fuzzed.opened(tmp_path) as take:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(seed=st.sampled_from(seeds), changes=changes, cut=st.integers(0, 4000))
        def damaged(seed: bytes, changes: list[tuple[int, bytes]], cut: int) -> None:
            data = bytearray(seed)
            for at, replacement in changes:
                start = at % len(seed)
                data[start : start + len(replacement)] = replacement
            take(bytes(data[: len(data) - cut % len(data)]))

        damaged()


@pytest.mark.skipif(
    find_spec("atheris") is None, reason="atheris is not installed: pip install 'lungnode[fuzz]'"
)
def test_a_few_guided_runs(tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).with_name("one_target.py"), GUIDED, tmp_path]
    done = subprocess.run(
        [*command, "-runs=2000", "-seed=1", "-timeout=86400"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done 2000 runs" in done.stderr
