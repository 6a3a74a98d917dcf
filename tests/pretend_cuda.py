"""Streams and graphs of the pretend GPU, see pretend_gpu.py: work in order, and operators that are replayed.

While a graph is captured nothing is computed: what operators write outside of its pool is undone, and its pool is
filled with not-a-number. So is the pool of other graphs with every replay, and memory that was freed is not there.
"""

from __future__ import annotations

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map


class Stream:
    """`done` operators so far; `seen` says up to which one of other streams it waits for them."""

    def __init__(self, device=None):
        self.device, self.done, self.seen = device, 0, {}

    def wait_stream(self, other):
        for stream, done in (*other.seen.items(), (other, other.done)):
            self.seen[stream] = max(done, self.seen.get(stream, 0))


class Event:
    """As torch.cuda.Event; how long kernels take is the GPU's to say."""

    def __init__(self, gpu, **_):
        self.gpu = gpu

    def record(self):
        pass

    def query(self):
        return True

    def synchronize(self):
        pass

    def elapsed_time(self, _):
        return self.gpu.milliseconds


class Memory:
    """A storage, held weakly: what last wrote it, and what has read it since."""

    def __init__(self, storage):
        self.key, self.ref = storage._cdata, StorageWeakRef(storage)
        self.written, self.read = {}, {}

    def touch(self, stream, host, *, write):
        """Use by an operator of `stream`, launched by a `host` that has waited for some streams."""
        for other, done in (*self.written.items(), *(self.read.items() if write else ())):
            if other is not stream and max(stream.seen.get(other, 0), host.seen.get(other, 0)) < done:
                raise RuntimeError("race: another stream may still be at work with this memory")
        stream.done += 1
        if write:
            self.written, self.read = {stream: stream.done}, {}
        else:
            self.read[stream] = stream.done

    def storage(self):
        storage = torch.UntypedStorage._new_with_weak_ptr(self.ref.cdata)
        if storage is None:
            raise RuntimeError("illegal memory access: a graph was captured with memory that has been freed")
        return storage


class Place:
    """A tensor as a captured operator knows it: by its address."""

    def __init__(self, tensor, memory):
        self.memory, self.dtype = memory, tensor.dtype
        self.where = tensor.storage_offset(), tensor.shape, tensor.stride()

    def tensor(self):
        return torch.empty(0, dtype=self.dtype).set_(self.memory.storage(), *self.where)


def tensors_of(values):
    """Those in lists and dictionaries; torch's pytrees are ten times slower, and here for every operator."""
    if isinstance(values, torch.Tensor):
        return [values]
    inner = values.values() if isinstance(values, dict) else values if isinstance(values, (list, tuple)) else ()
    return [tensor for value in inner for tensor in tensors_of(value)]


def keys_of(values):
    return {tensor.untyped_storage()._cdata: tensor for tensor in tensors_of(values)}


class CudaGraph:
    """As torch.cuda.CUDAGraph: `calls` are its operators, `pool` holds what they have allocated."""

    def __init__(self, gpu):
        self.gpu, self.calls, self.pool, self.saved, self.replays = gpu, [], {}, {}, 0
        gpu.graphs.add(self)

    def save(self, changed):
        """Remember memory outside of the pool that an operator is about to write."""
        for key, tensor in keys_of(changed).items():
            if key not in self.pool and key not in self.saved:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self.saved[key] = whole, whole.clone()

    def record(self, computes, given, out, changed):
        used = keys_of(given)
        fresh = {key: tensor for key, tensor in keys_of(out).items() if key not in used}
        self.pool.update(fresh)
        given, out = (tree_map(self._placed, values) for values in (given, out))
        self.calls.append((computes, given, out, {*keys_of(changed), *fresh}))

    def _placed(self, value):
        if not isinstance(value, torch.Tensor):
            return value
        # a number of the CPU is an argument of a kernel
        return value.clone() if getattr(value, "constant", False) else Place(value, self.gpu.memory(value))

    def finish(self):
        for whole, before in self.saved.values():
            whole.copy_(before)
        self.saved = {}
        self.spoil()

    def spoil(self):
        for tensor in self.pool.values():
            if tensor.is_floating_point():
                torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).fill_(float("nan"))

    def replay(self):
        self.replays += 1
        self.gpu.launched += 1
        with _disable_current_modes(), torch.inference_mode():
            for other in self.gpu.graphs:
                if other is not self:
                    other.spoil()
            for computes, given, out, changed in self.calls:
                for place in tree_leaves((given, out)):
                    if isinstance(place, Place):
                        place.memory.touch(self.gpu.stream, self.gpu.host, write=place.memory.key in changed)
                args, kwargs = tree_map(lambda one: one.tensor() if isinstance(one, Place) else one, given)
                for place, new in zip(tree_leaves(out), tree_leaves(computes(*args, **kwargs)), strict=True):
                    if isinstance(place, Place) and (old := place.tensor()).data_ptr() != new.data_ptr():
                        old.copy_(new)
