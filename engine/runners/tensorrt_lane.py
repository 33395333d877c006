"""One call at a time on a stream of its own: what a TensorRT runner has several of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.errors import OutOfDeviceMemory, RunnerFailed
from engine.runners.cuda_graphs import CudaGraphs, Recording
from engine.runners.interface import Results, Tensors

Buffers = dict[str, tuple[Any, Any]]
"""Pinned host memory and device memory, by the name of a tensor."""


@dataclass(eq=False)
class _Prepared:
    """A graph with its context and buffers for one set of shapes. recording: the call, once it was made before.

    working_bytes: what the context needs for what lies between its layers; working_memory: what it was given.
    """

    context: Any
    shapes: dict[str, tuple[int, ...]]
    inputs: Buffers
    outputs: Buffers
    working_bytes: int
    working_memory: Any = None
    called: bool = False
    recording: Recording | None = None
    recordable: bool = True


class Lane:
    """Pinned host buffers, device buffers and one execution context for each graph, kept while the shapes stay.

    From its second call with the same shapes on, copies and computing are a recording, where `graphs` can record.
    TensorRT wants the first call of a shape to be an ordinary one. All needs the GPU's context to be current.

    The graphs take turns in one working memory, which is as large as the largest call so far. By itself TensorRT would
    give each context one of its own, large enough for the largest shapes that its engine was built for.

    contexts: an execution context for each graph, used by this lane alone, of the strategy USER_MANAGED.
    """

    def __init__(self, trt: Any, driver: Any, contexts: Mapping[str, Any], graphs: CudaGraphs | None) -> None:
        self._trt, self._driver, self._graphs = trt, driver, graphs
        self._stream = driver.Stream()
        self._contexts = dict(contexts)
        self._prepared: dict[str, _Prepared] = {}
        self._under_way: Buffers = {}
        self._working_memory: Any = None
        self._working_bytes = 0

    def start(self, graph: str, inputs: Tensors) -> None:
        """Copy in, compute and copy out, all in the order of the stream; returns before any of it is done."""
        call = self._ready(graph, inputs)
        self._give_working_memory(call)
        for name, values in inputs.items():
            call.inputs[name][0][...] = values
        self._under_way = call.outputs
        if call.called and call.recording is None and call.recordable:
            call.recording = self._recorded(graph, call)
            call.recordable = call.recording is not None
        if call.recording is None or not call.recording.launch(self._stream.handle):
            self._enqueue(graph, call)
        call.called = True

    def finish(self) -> Results:
        """Wait for what was started; its outputs as arrays of their own."""
        self._stream.synchronize()
        return {name: np.array(host) for name, (host, _) in self._under_way.items()}

    def close(self) -> None:
        """Give recordings, buffers and contexts back."""
        for call in self._prepared.values():
            _drop_recording(call)
        self._prepared.clear()
        self._contexts.clear()
        self._under_way = {}
        self._working_memory, self._working_bytes = None, 0

    def _ready(self, graph: str, inputs: Tensors) -> _Prepared:
        shapes = {name: tuple(values.shape) for name, values in inputs.items()}
        known = self._prepared.get(graph)
        if known is not None and known.shapes == shapes:
            return known
        self._under_way = {}
        if known is not None:  # a recording is void once its context has another shape
            _drop_recording(self._prepared.pop(graph))
        context = self._contexts[graph]
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise RunnerFailed(
                    f"graph {graph}: shape {shape} is outside of what the engine was built for"
                )
        memory = {name: self._memory(context, name) for name in self._names(context)}
        outputs = {name: both for name, both in memory.items() if name not in shapes}
        self._prepared[graph] = _Prepared(
            context,
            shapes,
            {name: memory[name] for name in shapes},
            outputs,
            context.update_device_memory_size_for_shapes(),
            recordable=self._graphs is not None,
        )
        return self._prepared[graph]

    def _give_working_memory(self, call: _Prepared) -> None:
        if call.working_bytes > self._working_bytes:
            for known in self._prepared.values():  # recordings name the memory that is given back here
                _drop_recording(known)
                known.working_memory = None
            self._working_memory, self._working_bytes = None, 0
            self._working_memory = self._driver.mem_alloc(call.working_bytes)
            self._working_bytes = call.working_bytes
        if self._working_memory is not None and call.working_memory is not self._working_memory:
            call.context.set_device_memory(int(self._working_memory), self._working_bytes)
            call.working_memory = self._working_memory

    def _names(self, context: Any) -> list[str]:
        return [context.engine.get_tensor_name(index) for index in range(context.engine.num_io_tensors)]

    def _memory(self, context: Any, name: str) -> tuple[Any, Any]:
        dtype = np.dtype(self._trt.nptype(context.engine.get_tensor_dtype(name)))
        host = self._driver.pagelocked_empty(tuple(context.get_tensor_shape(name)), dtype)
        device = self._driver.mem_alloc(max(host.nbytes, 1))
        context.set_tensor_address(name, int(device))
        return host, device

    def _recorded(self, graph: str, call: _Prepared) -> Recording | None:
        """The call as a recording; None where it cannot be one: what is wrong shows when it is made as usual."""
        assert self._graphs is not None
        try:
            return self._graphs.record(self._stream.handle, lambda: self._enqueue(graph, call))
        except (RunnerFailed, self._driver.Error):
            return None

    def _enqueue(self, graph: str, call: _Prepared) -> None:
        for host, device in call.inputs.values():
            self._driver.memcpy_htod_async(device, host, self._stream)
        if not call.context.execute_async_v3(self._stream.handle):
            raise RunnerFailed(f"graph {graph} did not run; TensorRT's log says why")
        for host, device in call.outputs.values():
            self._driver.memcpy_dtoh_async(host, device, self._stream)


def _drop_recording(call: _Prepared) -> None:
    if call.recording is not None:
        call.recording.close()
        call.recording = None


def execution_context(graph: str, engine: Any, settings: Any) -> Any:
    """A context of an engine. settings: a runtime configuration, or how its memory is given to it.

    Raises OutOfDeviceMemory.
    """
    context = engine.create_execution_context(settings)
    if context is None:
        raise OutOfDeviceMemory(f"no memory on the GPU for graph {graph}")
    return context
