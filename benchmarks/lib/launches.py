"""Operators that are kernels on a GPU, counted on any machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode  # no public name; seen with torch 2.13


class Operators(TorchDispatchMode):
    """Counts operators, of the backward pass too, that compute or copy: each is one kernel or more, a view is none."""

    NONE = ("empty", "new_empty", "detach", "_unsafe_view", "lift_fresh")

    def __init__(self) -> None:
        super().__init__()
        self.count, self._counting = 0, True

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().removeprefix("aten::")
        self.count += self._counting and not (function.is_view or name.startswith(self.NONE))
        return function(*args, **(kwargs or {}))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing counts within."""
        self._counting = False
        try:
            yield
        finally:
            self._counting = True
