"""A pretend GPU: tensors that say they are on cuda:0, hold a CPU's numbers, and are as strict as CUDA is.

GpuTensor   the tensor: what mixes it with a CPU's tensors raises; what makes the host wait is named in `Gpu.waits`
pretend     a `with` block that has such a GPU, with torch.cuda's functions for it

Its streams and graphs are those of pretend_cuda.py.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch.nn.attention import varlen
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map

from tests.pretend_cuda import CudaGraph, Event, Memory, Stream, keys_of, tensors_of
from tests.training.dense_varlen import flash_backward, flash_forward

CPU, HOST, CUDA = torch.device("cpu"), torch.device("cpu:0"), torch.device("cuda:0")
READS = {"_local_scalar_dense", "equal", "is_nonzero"}  # give the host a number
SIZED = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}  # by what is in them
INDEXING = {"index", "index_put", "index_put_"}  # send indices of the CPU over
SCALARS = {"fill_", "index_put", "index_put_"}  # take a number of the CPU, as all pointwise operators do
FLASH = {"_flash_attention_forward": flash_forward, "_flash_attention_backward": flash_backward}
T = torch.Tensor


class GpuTensor(torch.Tensor):
    """`held` has the numbers. For C++ it is a CPU's tensor whose every operator is ours; for Python it is on a GPU."""

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        strides, offset = held.stride(), held.storage_offset()
        made = T._make_wrapper_subclass(cls, held.shape, strides=strides, storage_offset=offset, dtype=held.dtype)
        made.held = held
        return made

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __repr__(self, **_):
        return f"GpuTensor({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return Gpu.one.run(function, args, kwargs or {})


def _held(value):
    return value.held if isinstance(value, GpuTensor) else value


def _changed(function, args, kwargs):
    """The tensors that an operator writes to."""
    writes = _writes(function)
    return tensors_of([args[at] for at, _ in writes if at < len(args)] + [kwargs.get(name) for _, name in writes])


@functools.cache
def _writes(function):
    given = enumerate(function._schema.arguments)
    return [(at, one.name) for at, one in given if one.alias_info is not None and one.alias_info.is_write]


class Gpu:
    """What it has done: `waits` of the host by name, `staged` copies of unpinned memory, `launched` operators.

    `milliseconds` is how long the kernels between two events take.
    """

    one: Gpu

    def __init__(self):
        self.stream, self.host = Stream(), Stream()
        self.waits, self.staged, self.launched, self.milliseconds = [], 0, 0, 0.0
        self.capturing, self.debug, self.graphs = None, "default", weakref.WeakSet()
        self.memories, self.most = {}, 1000

    def memory(self, tensor):
        storage = tensor.untyped_storage()
        if len(self.memories) > self.most:
            self.memories = {key: one for key, one in self.memories.items() if not one.ref.expired()}
            self.most = 2 * len(self.memories) + 1000
        known = self.memories.get(storage._cdata)
        if known is None or known.ref.expired():
            known = self.memories[storage._cdata] = Memory(storage)
        return known

    def wait(self, what):
        if self.capturing:
            raise RuntimeError(f"{what} waits for the device: operation not permitted when stream is capturing")
        if self.debug == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=2)
        self.waits.append(what)
        self.host.wait_stream(self.stream)

    def run(self, function, args, kwargs):
        """An operator that has a tensor of the GPU, or makes one; any other is the CPU's."""
        name = function.overloadpacket.__name__
        ours = [tensor for tensor in tensors_of((args, kwargs)) if isinstance(tensor, GpuTensor)]
        device = kwargs.get("device")
        if ours and device == CPU:
            device = None  # C++ takes ours for a CPU's tensors; who means it says HOST
        goes = device or (CUDA if ours else CPU)
        if not ours and goes.type == "cpu":
            return function(*args, **kwargs)
        if function.namespace == "torch_attn":  # written in Python, of operators
            with Mode():
                return getattr(varlen, name)._init_fn(*args, **kwargs)
        if isinstance(kwargs.get("generator"), torch.Generator):
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        if name in ("_to_copy", "copy_"):
            source = args[0] if name == "_to_copy" else args[1]
            to = goes if name == "_to_copy" else args[0].device
            self.check_copy(source, to, kwargs.get("non_blocking", len(args) > 2 and name == "copy_" and args[2]))
            goes = to
        else:
            self.check(function, name, args, kwargs)
        return self.compute(function, args, kwargs, goes)

    def check_copy(self, source, to, non_blocking):
        if source.device.type == to.type or not source.numel():
            return
        if to.type == "cpu" or not non_blocking:
            self.wait(f"a copy from {source.device.type} to {to.type}")
        elif not getattr(source, "pinned", False):
            self.staged += 1
            if self.capturing:
                raise RuntimeError("Cannot copy between CPU and CUDA tensors during capture unless the CPU's is pinned")

    def check(self, function, name, args, kwargs):
        """What CUDA refuses, and what it waits for."""
        others = [tensor for tensor in tensors_of((args, kwargs)) if not isinstance(tensor, GpuTensor)]
        indices = args[1] if name in INDEXING else ()
        scalars = torch.Tag.pointwise in function.tags or name in SCALARS
        changed = _changed(function, args, kwargs)
        for tensor in others:
            if any(tensor is index for index in indices) and isinstance(args[0], GpuTensor):
                self.wait("an index of the CPU")
            elif tensor.ndim or not scalars or any(tensor is one for one in changed):
                raise RuntimeError(f"{name}: Expected all tensors to be on the same device, but found cuda:0 and cpu")
            tensor.constant = True
        masks = [index for index in indices if index is not None and index.dtype == torch.bool]
        filled = name != "index" and len(indices) == 1 and args[2].numel() == 1
        unsized = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in READS | SIZED or (masks and not filled) or unsized:
            self.wait(name)

    def compute(self, function, args, kwargs, goes):
        computes = FLASH.get(function.overloadpacket.__name__, function)
        kwargs = {**kwargs, "device": CPU} if "device" in kwargs else kwargs
        given = tree_map(_held, (args, kwargs))
        changed = [one.held for one in _changed(function, args, kwargs) if isinstance(one, GpuTensor)]
        if self.capturing:
            self.capturing.save(changed)
        out = computes(*given[0], **given[1])
        written = keys_of(changed)
        view = any(one.alias_info is not None and not one.alias_info.is_write for one in function._schema.returns)
        self.launched += not view
        if self.capturing:
            self.capturing.record(computes, given, out, changed)
        elif not view:
            used = keys_of([one.held for one in tensors_of((args, kwargs)) if isinstance(one, GpuTensor)])
            for key, tensor in used.items():
                self.memory(tensor).touch(self.stream, self.host, write=key in written)
            for key, tensor in keys_of(out if goes.type == "cuda" else ()).items():
                if key not in used:
                    self.memory(tensor).touch(self.stream, self.host, write=True)
        known = {id(_held(one)): one for one in tensors_of((args, kwargs))}

        def given_back(one):
            if id(one) in known or not isinstance(one, T) or goes.type == "cpu":
                return known.get(id(one), one)
            return GpuTensor(one)

        return tree_map(given_back, out)


class Mode(TorchDispatchMode):
    """Sees what makes tensors of the GPU out of nothing, or of a CPU's."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if GpuTensor not in types and (kwargs or {}).get("device", CPU) in (None, CPU):
            return function(*args, **(kwargs or {}))
        return Gpu.one.run(function, args, kwargs or {})


@contextmanager
def _on(stream):
    before, Gpu.one.stream = Gpu.one.stream, stream
    try:
        yield
    finally:
        Gpu.one.stream = before


@contextmanager
def _graph(graph, pool=None, stream=None, capture_error_mode="global"):
    gpu = Gpu.one
    gpu.host.wait_stream(gpu.stream)  # as torch.cuda.graph does
    with _on(stream):
        gpu.capturing = graph
        try:
            yield
        finally:
            gpu.capturing = None
            with _disable_current_modes(), torch.inference_mode():
                graph.finish()


def _to(own):
    """Tensor.to, which C++ would leave out between a CPU's tensors and ours."""

    def to(self, *args, **kwargs):
        copy = kwargs.pop("copy", False)
        first = args[0] if args else kwargs.pop("other", None)
        if isinstance(first, T):
            args = (first.device, first.dtype, *args[1:])
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
        if device is None or device.type == self.device.type:
            kind = self.dtype if dtype is None else dtype
            return own(self, kind, non_blocking=non_blocking, copy=copy)
        device = CUDA if device.type == "cuda" else HOST
        return torch.ops.aten._to_copy(self, dtype=dtype, device=device, non_blocking=non_blocking)

    return to


def _made(own):
    """torch.tensor on a device."""

    def tensor(data, *, device=None, **options):
        made = own(data, **options)
        return made if device is None else made.to(device)

    return tensor


def _pinned(self):
    assert not isinstance(self, GpuTensor), "cannot pin 'torch.cuda.FloatTensor', only dense CPU tensors can be pinned"
    copy = self.clone()
    copy.pinned = True
    return copy


@contextmanager
def pretend():
    """Within the block there is a GPU, which is given; `.to("cuda:0")` moves tensors and models there."""
    gpu = Gpu.one = Gpu()
    future = torch.__future__
    overwrites = future.get_overwrite_module_params_on_conversion()
    future.set_overwrite_module_params_on_conversion(True)  # a parameter becomes one of another class
    replaced = {
        "Stream": Stream,
        "Event": functools.partial(Event, gpu),
        "CUDAGraph": functools.partial(CudaGraph, gpu),
        "graph": _graph,
        "stream": _on,
        "current_stream": lambda *_: gpu.stream,
        "graph_pool_handle": lambda: (0, 1),
        "get_sync_debug_mode": lambda: gpu.debug,
        "set_sync_debug_mode": lambda mode: setattr(gpu, "debug", mode),
        "synchronize": lambda *_: gpu.host.wait_stream(gpu.stream),
        "mem_get_info": lambda *_: (1 << 30, 1 << 31),
        "get_device_capability": lambda *_: (9, 0),
        "is_bf16_supported": lambda **_: True,
        "_lazy_init": lambda: None,
    }
    methods = {
        "to": _to(T.to),
        "cpu": lambda self: self.to(CPU),
        "tolist": lambda self, own=T.tolist: own(self.to(CPU)),
        "pin_memory": _pinned,
    }
    try:
        with ExitStack() as stack:
            for name, value in replaced.items():
                stack.enter_context(patch.object(torch.cuda, name, value))
            stack.enter_context(patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False))
            stack.enter_context(patch.object(torch, "tensor", _made(torch.tensor)))
            for name, value in methods.items():
                stack.enter_context(patch.object(T, name, value))
            stack.enter_context(Mode())
            yield gpu
    finally:
        future.set_overwrite_module_params_on_conversion(overwrites)
