"""Steps on the pretend GPU of tests/pretend_gpu.py: nothing lies on the wrong device, and the host never waits.

In bfloat16, by torch's own varlen_attn down to its kernel, for which tests/training/dense_varlen.py stands in.
"""

from __future__ import annotations

import copy

import pytest
import torch

from arriero.training.options import TrainOptions
from arriero.training.setup.graph_setup import add_graphs
from tests.pretend_gpu import CPU, CUDA, pretend
from tests.training.test_exactness import GROUP, build, gradients_of, steps_of

ROWS = (GROUP, GROUP[:3], GROUP[1:])


@pytest.fixture
def gpu():
    with pretend() as gpu:
        yield gpu


@pytest.fixture
def plain(gpu):
    """Steps of a model on the CPU."""
    return steps_of(copy.deepcopy(build("Llama", dtype=torch.bfloat16)))


@pytest.fixture
def steps(plain):
    """The same on the GPU."""
    return steps_of(copy.deepcopy(plain.model).to(CUDA))


def waits_of(gpu, steps, plain, examples):
    """What a step waits for; it has the loss and the gradients that it has on the CPU."""
    expected = plain.backward(examples).loss.item()
    gpu.waits.clear()
    loss = steps.backward(examples).loss
    waits = list(gpu.waits)
    assert loss.item() == pytest.approx(expected, rel=2e-2)
    theirs, ours = gradients_of(plain.model), gradients_of(steps.model).to(CPU)
    assert (ours - theirs).norm() <= 0.1 * theirs.norm()
    return waits


def test_every_piece_is_proven_there_and_a_step_waits_for_nothing(gpu, plain, steps):
    assert steps.kernels.counts == plain.kernels.counts
    assert waits_of(gpu, steps, plain, GROUP) == []
    assert not gpu.staged


@pytest.mark.slow
def test_rows_are_captured_and_replayed_without_waiting(gpu, plain, steps):
    add_graphs(steps, TrainOptions(cuda_graphs="on"))
    waits = [waits_of(gpu, steps, plain, examples) for examples in ROWS]
    assert not steps.graphs.off
    (graph,) = gpu.graphs
    assert graph.replays == len(waits) - 1, "the first is the model's, the second replayed to be compared"
    assert waits[1], "the graph's inputs are made, and its gradients read"
    assert not any(waits[2:])


@pytest.mark.slow
def test_only_rows_that_wait_for_their_launches_are_captured(gpu, plain, steps):
    add_graphs(steps, TrainOptions(cuda_graphs="auto"))
    gpu.milliseconds = 1e6
    for examples in ROWS:
        waits_of(gpu, steps, plain, examples)
    assert not gpu.graphs
    gpu.milliseconds = 0.0  # the kernels are done as soon as they have been launched
    for examples in ROWS:
        waits_of(gpu, steps, plain, examples)
    assert len(gpu.graphs) == 1


@pytest.mark.slow
def test_steps_with_an_optimizer_end_where_they_do_on_the_cpu(gpu, plain, steps):
    """Parameters are changed in place on the default stream, gradients added up on the one that captures."""
    add_graphs(steps, TrainOptions(cuda_graphs="on"))
    start = torch.cat([weight.detach().flatten() for weight in plain.trained.values()])
    ends = []
    for one in (plain, steps):
        weights = list(one.trained.values())
        optimizer = torch.optim.SGD(weights, lr=1e-2)
        for step in range(6):
            one.backward([GROUP[(step + at) % 4] for at in range(3)])
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=bool(step % 2))
        ends.append(torch.cat([weight.detach().to(CPU).flatten() for weight in weights]) - start)
    assert (ends[0] - ends[1]).norm() <= 0.1 * ends[0].norm()
    assert gpu.graphs


@pytest.mark.slow
def test_a_model_that_waits_is_not_captured(gpu, plain, steps):
    add_graphs(steps, TrainOptions(cuda_graphs="on"))
    steps.base.model.norm.register_forward_pre_hook(lambda _, args: args[0].sum().item() and None)
    for examples in ROWS:
        waits_of(gpu, steps, plain, examples)
    assert "the host waits for the device, first in" in steps.graphs.off
