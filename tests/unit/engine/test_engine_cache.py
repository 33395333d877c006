"""What the cache of engines keeps, and what it forgets."""

from __future__ import annotations

import os
from pathlib import Path

from engine.engine_cache import EngineCache, EngineKey


def a_key(graph: str) -> EngineKey:
    return EngineKey("p", "0" * 64, graph, 1, "bf16", "openvino", "openvino 1, a processor", "1-8-32")


def test_engines_that_nobody_has_used_for_long_are_deleted(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    old, used = a_key("classify"), a_key("segment")
    for key in (old, used):
        cache.put(key, b"content", 1.0, ())
        os.utime(tmp_path / f"{key.stem}.json", (1000, 1000))
    beside = [tmp_path / f"{key.stem}.kernels" for key in (old, used)]
    for path in beside:
        path.touch()
    (tmp_path / "foreign.json").write_text("{}")
    os.utime(tmp_path / "foreign.json", (1000, 1000))
    cache.used(used)

    assert cache.forget_unused(1000) == ()
    assert cache.forget_unused(2000) == (old,)
    assert not cache.engine_path(old).exists() and cache.find(old) is None
    assert [path.exists() for path in beside] == [False, True]
    assert cache.engine_path(used).read_bytes() == b"content" and cache.find(used) is not None
    assert (tmp_path / "foreign.json").exists()
