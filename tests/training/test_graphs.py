"""Rows computed by graphs learn what the model's own passes learn; which rows get one, and what is left out.

Graphs are those of tests/op_graph.py: on a CPU they replay the operators of forward and backward pass in static memory.
"""

from __future__ import annotations

import copy
import gc
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.prompt import Rendered
from arriero.training.graphs import RowGraphs, rows
from arriero.training.graphs.bucket import Bucket
from arriero.training.graphs.rows import GraphOptions
from arriero.training.kernels.varlen import Sequences
from tests.op_graph import OpCapture
from tests.training.dense_varlen import dense_varlen
from tests.training.test_exactness import GROUP, build, gradients_of, some_examples, steps_of


def graphed(model, capture=None, *, always=True, tolerance=1e-4, **plan):
    """Steps whose rows are captured when they return."""
    steps = steps_of(model, **plan)
    options = GraphOptions(dense_varlen, always, tolerance)
    steps.graphs = RowGraphs(steps.weighted_backward, list(steps.trained.values()), capture or OpCapture(), options)
    return steps


def learned(steps, examples):
    """Loss and gradients of a step."""
    loss = steps.backward(examples).loss.item()
    return loss, gradients_of(steps.model)


def same(steps, examples, plain, tolerance=1e-4):
    """A step has the loss and the gradients that it has without graphs."""
    loss, gradients = learned(plain, examples)
    ours, found = learned(steps, examples)
    assert ours == pytest.approx(loss, rel=tolerance)
    assert (found - gradients).norm() <= tolerance * gradients.norm()


@settings(max_examples=8, deadline=None)
@given(st.lists(some_examples(), min_size=3, max_size=5), st.sampled_from([16, 64]))
def test_random_steps_learn_the_same_with_graphs_and_without(steps_examples, row_tokens):
    """Whatever rows come in turn into the same graph, several to a step: prefixes, lengths, loss positions, weights."""
    model = build("Llama")
    ours, plain = graphed(model, row_tokens=row_tokens), steps_of(model, row_tokens=row_tokens)
    for examples in steps_examples:
        same(ours, examples, plain)
    assert ours.graphs.graphs
    assert not ours.graphs.off


@pytest.mark.parametrize("family", ["Qwen3", "Gemma", "Granite"])
@pytest.mark.parametrize("name", ["shared", "packed"])
def test_families(family, name):
    """Also with a head that does more than a product, and without shared prefixes."""
    model = build(family)
    ours, plain = graphed(model, name=name), steps_of(model, name=name)
    for examples in (GROUP, GROUP[:3], GROUP[1:]):
        same(ours, examples, plain)
    assert ours.graphs.graphs


def test_in_bfloat16():
    model = build("Llama", dtype=torch.bfloat16)
    ours, plain = graphed(model, tolerance=0.1), steps_of(model)
    for examples in (GROUP, GROUP[:3], GROUP[1:]):
        same(ours, examples, plain, tolerance=0.1)  # another kernel of attention
    assert ours.graphs.graphs


def test_a_replay_is_the_capture_s_pass_bit_for_bit():
    model = build("Llama")
    capture = OpCapture()
    ours = graphed(model, capture)
    _, *found = (learned(ours, GROUP) for _ in range(4))
    assert len(capture.graphs) == 1
    assert found[1][0] == found[2][0]
    assert torch.equal(found[1][1], found[2][1])


def test_adapters_agree_after_twenty_steps():
    """AdamW changes the parameters in place, and the next step's gradients start from zero."""
    ends = []
    for make in (graphed, steps_of):
        model = copy.deepcopy(build("Llama"))
        optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
        steps = make(model)
        for step in range(20):
            steps.backward([GROUP[(step + at) % 4] for at in range(3)])
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        ends.append(torch.cat([weight.detach().flatten() for weight in model.parameters() if weight.requires_grad]))
    assert (ends[0] - ends[1]).norm() <= 1e-4 * ends[1].norm()


def test_gradients_that_are_there_already_are_added_to():
    """A row with a graph, one without, and the one with a graph again, all in one step; and zeroing in place."""
    model = build("Llama")
    ours, plain = graphed(model), steps_of(model)
    for _ in range(2):
        learned(ours, GROUP)
    long = [Rendered((1, *range(5, 60), *range(5, 60), *range(5, 60), 2), ((100, 166),))]
    for steps in (ours, plain):
        for examples in (GROUP, long, GROUP[:2]):
            steps.backward(examples)
    assert len(ours.graphs.graphs) == 1
    expected = gradients_of(model) / 2  # of both together
    for examples in (GROUP, long, GROUP[:2]):
        ours.backward(examples)
    parts = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert (torch.cat([part.flatten() for part in parts]) - expected).norm() <= 1e-5 * expected.norm()
    model.zero_grad(set_to_none=False)
    ours.backward(GROUP)
    assert (gradients_of(model) - learned(plain, GROUP)[1]).norm() <= 1e-5 * expected.norm()


def test_a_bucket_that_does_not_return_is_not_captured():
    model = build("Llama")
    capture = OpCapture()
    ours = graphed(model, capture)
    for count in range(1, 5):
        learned(ours, [tokens_of(128 * count)])
    assert not capture.graphs
    learned(ours, [tokens_of(256)])
    assert [bucket.tokens for bucket in ours.graphs.graphs] == [256]


def tokens_of(length):
    chance = random.Random(length)
    return Rendered((1, *(chance.randrange(3, 63) for _ in range(length - 1))), ((length - 9, length),))


def test_rows_that_are_not_bound_by_launching_are_not_captured():
    model = build("Llama")
    capture = OpCapture(launch_bound=False)
    ours = graphed(model, capture, always=False)
    for _ in range(3):
        same(ours, GROUP, steps_of(model))
    assert not capture.graphs
    capture.bound = True
    for _ in range(3):
        same(ours, GROUP, steps_of(model))
    assert len(capture.graphs) == 1


def test_the_first_row_of_a_size_is_not_timed():
    """Kernels are compiled and memory is taken in it: the host is busy, and rows of any length passed for short."""
    model = build("Llama")
    capture = OpCapture()
    timed = []
    capture.timed = lambda: timed.append(1) or OpCapture.timed(capture)
    ours = graphed(model, capture, always=False)
    for count in (0, 1, 2):  # the third is captured, and a replay of it timed
        assert not capture.graphs
        same(ours, GROUP, steps_of(model))
        assert len(timed) == count
    assert len(capture.graphs) == 1


@pytest.mark.parametrize("always", [False, True])
def test_a_graph_that_is_no_faster_than_the_model_is_not_kept_unless_demanded(always):
    """A full queue of launches makes long rows look bound by them; their graphs held gigabytes and saved nothing."""
    model = build("Llama")
    capture = OpCapture(replay_seconds=1.0)
    ours = graphed(model, capture, always=always)
    for examples in (GROUP, GROUP, GROUP, GROUP, GROUP):
        same(ours, examples, steps_of(model))
    assert len(capture.graphs) == 1
    assert bool(ours.graphs.graphs) == always
    assert not ours.graphs.off
    replays = capture.replays
    same(ours, GROUP, steps_of(model))
    assert (capture.replays > replays) == always
    capture.replay_seconds = 0.5
    for _ in range(3):
        same(ours, [tokens_of(256)], steps_of(model))
    assert 256 in [bucket.tokens for bucket in ours.graphs.graphs]


def test_the_number_of_graphs_is_bounded_and_the_one_unused_longest_goes(monkeypatch):
    monkeypatch.setattr(rows, "MOST", 2)
    model = build("Llama")
    ours, plain = graphed(model), steps_of(model)
    for length in (128, 128, 256, 256, 128, 384, 384, 256):
        same(ours, [tokens_of(length)], plain)
        assert len(ours.graphs.graphs) <= 2
    assert [bucket.tokens for bucket in ours.graphs.graphs] == [128, 384]


def test_what_was_seen_is_bounded(monkeypatch):
    monkeypatch.setattr(rows, "REMEMBERED", 1)
    ours = graphed(build("Llama"))
    for length in (128, 256, 128, 256):
        learned(ours, [tokens_of(length)])
    assert not ours.graphs.graphs


@settings(max_examples=25, deadline=None)
@given(some_examples())
def test_rows_of_a_bucket_fit_into_it(examples):
    steps = graphed(build("Llama"))
    row = steps._row(examples)
    bucket = Bucket.of(row)
    assert steps.computed(examples) == bucket.tokens == row.computed
    sequences = Sequences.of(row.layout)
    assert bucket.sequences >= len(row.lengths)
    assert bucket.keys >= len(sequences.index)
    assert bucket.positions >= len(row.targets)
    assert bucket.longest >= sequences.most_keys >= sequences.most_queries


class Stale(OpCapture):
    """Replays nothing: gradients are those of no row."""

    def __call__(self, work):
        _, found = super().__call__(work)
        return lambda: None, found


class Failing(OpCapture):
    def __call__(self, work):
        work()
        raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize(
    ("capture", "word"),
    [(Stale(), "the gradients of a captured row are"), (Failing(), "capturing raises RuntimeError: operation not")],
)
def test_a_capture_that_fails_or_is_wrong_is_left_out_with_a_word(capture, word, caplog):
    model = build("Llama")
    ours, plain = graphed(model, capture), steps_of(model)
    for _ in range(3):
        same(ours, GROUP, plain)
    assert word in ours.graphs.off
    assert "CUDA graphs are off from now on, the model computes all rows" in caplog.text
    assert not ours.graphs.graphs


def test_a_model_that_reads_numbers_on_the_host_is_not_captured(caplog):
    model = build("Llama")
    ours, plain = graphed(model), steps_of(model)
    hook = model.get_base_model().model.norm.register_forward_pre_hook(lambda _, args: args[0].sum().item() and None)
    try:
        for _ in range(3):
            same(ours, GROUP, plain)
    finally:
        hook.remove()
    assert "waits for the device" in ours.graphs.off


def test_graphs_that_are_released_give_way_to_the_model():
    model = build("Llama")
    ours, plain = graphed(model), steps_of(model)
    for _ in range(2):
        same(ours, GROUP, plain)
    assert ours.release_graphs("out of memory")
    assert not ours.release_graphs("out of memory"), "there are none any more"
    same(ours, GROUP, plain)
    assert not plain.release_graphs("it never had any")


def test_nothing_of_a_step_s_autograd_graph_is_left():
    """A node of the default stream that is left breaks the capture of a backward pass on another one."""
    model = copy.deepcopy(build("Llama"))
    steps = steps_of(model)
    parameters = list(steps.trained.values())

    def nodes():
        return [parameter.view_as(parameter).grad_fn.next_functions[0][0] for parameter in parameters]

    def mark(*_):
        for node in nodes():
            node.metadata["of"] = "the step"

    hook = model.get_base_model().model.norm.register_forward_pre_hook(mark)
    gc.disable()
    try:
        steps.backward(GROUP)
        assert not any(node.metadata for node in nodes())
        loss = model(input_ids=torch.tensor([GROUP[0].ids])).logits.sum()
        assert any(node.metadata for node in nodes()), "as long as there is a graph, its nodes are there"
    finally:
        gc.enable()
        hook.remove()
    del loss
    gradients_of(model)
