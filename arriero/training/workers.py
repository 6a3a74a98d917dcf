"""The processes that train together, as torchrun or Ray Train starts them: which one this is, and what all agree on.

The environment is read when asked: Ray sets it in processes that have imported this already.
"""

from __future__ import annotations

import functools
import os
from typing import TypeVar

import torch
from torch import distributed

Value = TypeVar("Value")


def rank() -> int:
    """Number of this worker; 0 is the one that writes, and the only one without others."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Its number on this machine, and that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def count() -> int:
    """Workers in all."""
    return int(os.environ.get("WORLD_SIZE", 1))


def gathered(value: Value) -> list[Value]:
    """What every worker calls this with, by rank. All have to call it."""
    if count() == 1:
        return [value]
    values: list[Value] = [value] * count()
    distributed.all_gather_object(values, value, group=_group())
    return values


def anywhere(flag: bool) -> bool:
    """Whether it is true in any worker. All have to call it; no GPU is waited for."""
    if count() == 1:
        return flag
    flags = torch.tensor([int(flag)])
    distributed.all_reduce(flags, distributed.ReduceOp.MAX, group=_group())
    return bool(flags)


@functools.cache
def _group() -> distributed.ProcessGroup:
    """All workers, over CPUs."""
    return distributed.new_group(backend="gloo")
