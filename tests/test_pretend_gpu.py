"""The pretend GPU is as strict as CUDA: what CUDA refuses, waits for or loses is refused, noted or lost."""

from __future__ import annotations

import pytest
import torch

from tests.pretend_gpu import CPU, CUDA, pretend


@pytest.fixture
def gpu():
    with pretend() as gpu:
        yield gpu


@pytest.fixture
def x(gpu):
    return torch.arange(12.0, device=CUDA).view(3, 4)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda x: x + torch.ones(4),
        lambda x: x @ torch.ones(4, 2),
        lambda x: torch.cat((x, torch.ones(1, 4))),
        lambda x: x.index_select(0, torch.tensor([1])),
        lambda x: torch.nn.functional.embedding(torch.tensor([1]), x),
        lambda x: torch.ones(3, 4).copy_(x) + x,
        lambda x: torch.zeros(()).add_(x.sum()),
    ],
)
def test_tensors_of_two_devices_are_not_mixed(x, mixed):
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        mixed(x)


def test_a_number_of_the_cpu_is_an_argument(x, gpu):
    assert (x + torch.tensor(2.0))[0].device == CUDA
    assert not gpu.waits


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: x.nonzero(),
        lambda x: x[x > 3],
        lambda x: x[[0, 1]],
        lambda x: x.cpu(),
        lambda x: x.to("cpu", torch.float64),
        lambda x: torch.zeros(3, 4).copy_(x),
        lambda x: torch.equal(x, x),
        lambda x: torch.tensor([1], device=x.device),
        lambda x: torch.ones(3).pin_memory().to(x.device),
        lambda x: x[0].copy_(torch.ones(4)),
    ],
)
def test_what_makes_the_host_wait_is_noted_and_cannot_be_captured(x, gpu, work):
    work(x)
    assert len(gpu.waits) == 1
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"), capture():
        work(x)
    torch.cuda.set_sync_debug_mode("warn")
    with pytest.warns(UserWarning, match="called a synchronizing CUDA operation"):
        work(x)


def capture(graph=None):
    return torch.cuda.graph(graph or torch.cuda.CUDAGraph(), stream=torch.cuda.current_stream())


def test_copies_of_pinned_memory_do_not_wait(gpu):
    there = torch.zeros(3, device=CUDA)
    there.copy_(torch.ones(3).pin_memory(), non_blocking=True)
    assert (gpu.waits, gpu.staged) == ([], 0)
    there.copy_(torch.ones(3), non_blocking=True)
    assert (gpu.waits, gpu.staged) == ([], 1)


def test_a_graph_is_replayed_in_its_memory_and_computes_nothing_while_captured(x):
    graph, total = torch.cuda.CUDAGraph(), torch.zeros(3, device=CUDA)
    with capture(graph):
        out = x.sum(1)
        total += out
    assert total.tolist() == [0, 0, 0]
    assert out.isnan().all()
    x.fill_(2.0)
    for _ in range(2):
        graph.replay()
    assert out.tolist() == [8, 8, 8]
    assert total.tolist() == [16, 16, 16]


def test_a_replay_spoils_other_graphs_memory(x):
    graphs, outs = [torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()], []
    for graph in graphs:
        with capture(graph):
            outs.append(x * 2)
    graphs[0].replay()
    graphs[1].replay()
    assert outs[0].isnan().all()
    assert not outs[1].isnan().any()


def test_memory_that_was_freed_is_not_there(x):
    graph, gone = torch.cuda.CUDAGraph(), torch.ones(4, device=CUDA)
    with capture(graph):
        x.add_(gone)
    graph.replay()
    del gone
    with pytest.raises(RuntimeError, match="illegal memory access"):
        graph.replay()


def test_streams_that_do_not_wait_for_each_other_race(x):
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), pytest.raises(RuntimeError, match="race"):
        x.add_(1)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        x.add_(1)
    with pytest.raises(RuntimeError, match="race"):
        x.sum()


def test_a_model_learns_there_as_it_does_on_the_cpu():
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 2))
    given = torch.randn(3, 4)
    model(given).square().sum().backward()
    expected = [weight.grad.clone() for weight in model.parameters()]
    with pretend() as gpu:
        moved = model.to(CUDA)
        moved.zero_grad()
        gpu.waits.clear()
        moved(given.pin_memory().to(CUDA, non_blocking=True)).square().sum().backward()
        assert not gpu.waits
        for weight, grad in zip(moved.parameters(), expected, strict=True):
            assert weight.grad.device == CUDA
            torch.testing.assert_close(weight.grad.to(CPU), grad)
