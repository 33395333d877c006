"""CUDA graphs: what is put on a stream is recorded once and launched as one piece ever after.

A call of a network is hundreds of launches, which cost more than the work where batches are small. pycuda has no
graphs, so they come from NVIDIA's own bindings of the driver (package cuda-bindings), on the streams of pycuda.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


class Recording:
    """What was put on a stream, ready to be launched. Memory that it names has to stay where it is."""

    def __init__(self, driver: Any, executable: Any) -> None:
        self._driver, self._executable = driver, executable

    def launch(self, stream: int) -> bool:
        """Put the whole of it on a stream; False where the driver refuses."""
        (status,) = self._driver.cuGraphLaunch(self._executable, stream)
        return bool(status == self._driver.CUresult.CUDA_SUCCESS)

    def close(self) -> None:
        """Give its memory back; its last launch has ended."""
        self._driver.cuGraphExecDestroy(self._executable)


class CudaGraphs:
    """Records streams. driver: the module cuda.bindings.driver."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def record(self, stream: int, enqueue: Callable[[], None]) -> Recording | None:
        """What `enqueue` puts on `stream`, none of which is done yet; None where the driver cannot record it.

        Raises what `enqueue` raises; the stream is as before then.
        """
        driver = self._driver
        done = driver.CUresult.CUDA_SUCCESS
        (status,) = driver.cuStreamBeginCapture(
            stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        )
        if status != done:
            return None
        try:
            enqueue()
        finally:
            status, graph = driver.cuStreamEndCapture(stream)
        if status != done:
            return None
        status, executable = driver.cuGraphInstantiate(graph, 0)
        driver.cuGraphDestroy(graph)
        return Recording(driver, executable) if status == done else None


def open_cuda_graphs() -> CudaGraphs | None:
    """Recording on this machine; None where cuda-bindings is not installed or finds no driver."""
    try:
        driver = import_module("cuda.bindings.driver")
        (status,) = driver.cuInit(0)
    except (ImportError, RuntimeError):  # a driver that is not there is a RuntimeError
        return None
    return CudaGraphs(driver) if status == driver.CUresult.CUDA_SUCCESS else None
