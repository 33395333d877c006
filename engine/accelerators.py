"""Which GPUs a machine has, asked of its driver: no library is loaded for it, and nothing on them."""

from __future__ import annotations

from pathlib import Path

NVIDIA_DRIVER = Path("/proc/driver/nvidia/gpus")


def gpu_models(driver: Path = NVIDIA_DRIVER) -> tuple[str, ...]:
    """The models that NVIDIA's driver tells of, none where it is not there."""
    lines = (line for path in sorted(driver.glob("*/information")) for line in path.read_text().splitlines())
    return tuple(line.partition(":")[2].strip() for line in lines if line.startswith("Model:"))
