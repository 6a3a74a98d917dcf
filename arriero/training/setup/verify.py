"""The first step computed twice: under the plan, and plainly, padded, with nothing but the model's own pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from arriero.prompt import Rendered
from arriero.training.kernels import Kernels
from arriero.training.steps import Steps

SAMPLE = 4  # examples, the shortest of the step
TOLERANCE = {torch.float32: 1e-3}  # of the gradients, relative; of the loss, a tenth of it
TOLERANCE_16_BIT = 0.2  # two ways of rounding to bfloat16 are 0.03 to 0.07 apart


@dataclass(frozen=True, slots=True)
class Verification:
    """Relative differences of the loss, and of all gradients together, between the plan and the plain computation."""

    loss_difference: float
    gradient_difference: float
    tolerance: float
    fell_back: bool = False

    @property
    def passed(self) -> bool:
        """Whether both differences are what rounding explains."""
        return self.gradient_difference <= self.tolerance and self.loss_difference <= self.tolerance / 10


def verify(steps: Steps, examples: Sequence[Rendered]) -> Verification:
    """Compare on the shortest of `examples`. Leaves parameters, gradients and random state as they were.

    The LoRA matrices are filled at random for this, since fresh ones are zero and would hide half of the gradients.
    """
    sample = sorted(examples, key=lambda example: len(example.ids))[:SAMPLE]
    alone = replace(  # an example at a time, recomputed: it takes more memory than the plan was made for
        steps.plan,
        mode=replace(steps.plan.mode, name="padded", own_attention=False),
        row_tokens=1,
        recomputed=steps.plan.layers if steps.base.supports_gradient_checkpointing else 0,
    )
    with _probing(steps.model):
        try:
            loss, gradients = _gradients(Steps(steps.model, alone, Kernels(None)), sample)
        finally:
            steps.apply(steps.plan)
        our_loss, our_gradients = _gradients(steps, sample)
    return Verification(
        loss_difference=abs(our_loss - loss) / abs(loss),
        gradient_difference=float((our_gradients - gradients).norm() / gradients.norm()),
        tolerance=TOLERANCE.get(steps.base.dtype, TOLERANCE_16_BIT),
    )


def _gradients(steps: Steps, sample: Sequence[Rendered]) -> tuple[float, Tensor]:
    trained = _trained(steps.model)
    loss = float(steps.backward(sample).loss)
    gradients = torch.cat([parameter.grad.float().flatten() for parameter in trained if parameter.grad is not None])
    for parameter in trained:
        parameter.grad = None
    return loss, gradients


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@contextmanager
def _probing(model: Any) -> Iterator[None]:
    """Training mode without dropout, and LoRA matrices of ordinary size; all undone at the end."""
    trained = _trained(model)
    before = [parameter.detach().clone() for parameter in trained]
    generator = torch.Generator().manual_seed(0)
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout) and module.training]
    try:
        for module in dropouts:
            module.eval()
        with torch.no_grad():
            for parameter in trained:
                if not parameter.any():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        yield
    finally:
        for module in dropouts:
            module.train()
        with torch.no_grad():
            for parameter, value in zip(trained, before, strict=True):
                parameter.copy_(value)
