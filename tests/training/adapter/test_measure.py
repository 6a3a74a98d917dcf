"""measure(): the plain forward pass's figures, whatever the batches; greedy_completions(): greedy, many at once."""

from __future__ import annotations

import math
import types

import pytest
import torch
from transformers import PretrainedConfig

from arriero.errors import ArrieroError, UsageError
from arriero.prompt import Rendered
from arriero.training.adapter import measure as module
from arriero.training.adapter.completions import greedy_completions
from arriero.training.adapter.measure import measure
from tests.conftest import ids_of
from tests.training.adapter.conftest import loop, plain, renderer_of, tuned
from tests.training.test_exactness import GROUP, LONGROPE, build

STOP = {2}


class Bigrams(torch.nn.Module):
    """What follows a token depends on that token only, by a table of logits; its forward pass knows few options."""

    device = torch.device("cpu")
    config = PretrainedConfig()

    def __init__(self, table):
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor(table))

    def forward(self, input_ids, attention_mask):
        return types.SimpleNamespace(logits=self.table[input_ids])


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_it_is_the_plain_one(model_dir, rendered, batch_size):
    model = plain(model_dir, dtype=torch.float32)
    nll, tokens, stop_rate = loop(model, rendered)
    figures = measure(model, rendered, STOP, batch_size=batch_size)
    assert (figures.rows, figures.loss_tokens, figures.stop_rate) == (len(rendered), tokens, stop_rate)
    assert figures.nll == pytest.approx(nll, abs=1e-5)
    assert figures.perplexity == pytest.approx(math.exp(nll), rel=1e-4)


def test_an_adapter_and_its_base_from_one_model(model_dir, make_adapter, rendered):
    model = tuned(model_dir, make_adapter(model_dir), dtype=torch.float32)
    with model.disable_adapter():
        base = measure(model, rendered, STOP)
    assert base.nll == pytest.approx(loop(plain(model_dir, dtype=torch.float32), rendered)[0], abs=1e-5)
    assert measure(model, rendered, STOP).nll == pytest.approx(loop(model, rendered)[0], abs=1e-5)
    assert measure(model, rendered, STOP).nll != pytest.approx(base.nll, abs=0.01)


def test_bfloat16_logits_are_summed_in_float32(stored_as, rendered):
    model = plain(stored_as(torch.bfloat16), dtype="auto")
    assert measure(model, rendered, STOP, batch_size=1).nll == pytest.approx(loop(model, rendered)[0], rel=1e-5)


def test_logits_are_computed_where_loss_tokens_are_predicted(model_dir, rendered):
    model = plain(model_dir, dtype=torch.float32)
    widths = []
    model.lm_head.register_forward_hook(lambda _, __, output: widths.append(output.shape[1]))
    measure(model, rendered, STOP, batch_size=1)
    assert sorted(widths) == sorted(sum(example.mask) for example in rendered)


@pytest.mark.parametrize("limits", [{"CHUNK": 600}, {"PADDED": 60}])
def test_bounds_of_memory_change_no_figure(model_dir, rendered, monkeypatch, limits):
    model = plain(model_dir, dtype=torch.float32)
    expected = measure(model, rendered, STOP)
    for name, value in limits.items():
        monkeypatch.setattr(module, name, value)
    figures = measure(model, rendered, STOP)
    assert figures.nll == pytest.approx(expected.nll, rel=1e-6)
    assert figures.stop_rate == expected.stop_rate


def test_a_long_example_changes_nothing_for_those_beside_it():
    """With longrope a batch is encoded as its longest example."""
    model = build.__wrapped__("Phi3", **LONGROPE)
    alone = measure(model, GROUP, STOP, batch_size=1)
    assert measure(model, GROUP, STOP).nll == pytest.approx(alone.nll)


def test_figures_by_hand():
    """Ids 0 to 3, of which 2 and 3 end a turn; after 1 a token 3 is most likely, after 0 a token 1."""
    table = [[0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 3.0], [0.0] * 4, [0.0] * 4]
    examples = [
        Rendered((1, 0, 1, 2, 1, 0, 2), ((2, 4), (6, 7))),  # the first answer would end, with 3 for 2; the other not
        Rendered((0, 1, 3), ((1, 3),)),  # would end
        Rendered((0, 1, 1), ((1, 3),)),  # ends with no stop token: not counted
    ]
    figures = measure(Bigrams(table), examples, {2, 3})
    after_0, after_1 = (math.log(sum(math.exp(logit) for logit in row)) for row in table[:2])
    # 0>1, 1>2, 0>2;  0>1, 1>3;  0>1, 1>1
    nats = 3 * (after_0 - 2) + after_0 + (after_1 - 1) + (after_1 - 3) + after_1
    assert figures.nll == pytest.approx(nats / 7)
    assert figures.perplexity == pytest.approx(math.exp(nats / 7))
    assert (figures.rows, figures.loss_tokens, figures.stop_rate) == (3, 7, pytest.approx(2 / 3))
    assert measure(Bigrams(table), examples[2:], {2, 3}).stop_rate is None
    assert measure(Bigrams(table), examples[:2], {2}).stop_rate == 0.0


def test_flags_are_left_as_they_were_and_progress_is_told(model_dir, rendered):
    model = plain(model_dir, dtype=torch.float32).train()
    model.model.norm.eval()
    before = [part.training for part in model.modules()]
    progress = []
    measure(model, rendered, STOP, batch_size=3, on_done=lambda done, rows: progress.append((done, rows)))
    assert progress == [(3, 8), (6, 8), (8, 8)]
    assert [part.training for part in model.modules()] == before
    assert all(weight.grad is None for weight in model.parameters())


def test_nothing_to_measure_and_a_broken_model():
    with pytest.raises(UsageError, match="no loss token"):
        measure(Bigrams([[0.0]]), [], {0})
    with pytest.raises(UsageError, match="no loss token"):
        measure(Bigrams([[0.0]]), [Rendered((0, 0), ())], {0})
    with pytest.raises(ArrieroError, match="the loss is nan"):
        measure(Bigrams([[float("nan")]]), [Rendered((0, 0), ((1, 2),))], {0})


def test_answers_are_greedy_generate_s_whatever_the_model_s_defaults(model_dir, make_adapter, recwarn):
    model = tuned(model_dir, make_adapter(model_dir), dtype=torch.float32)
    base = model.get_base_model()
    renderer = renderer_of(model_dir)
    prompts = [renderer.prompt([{"role": "user", "content": f"who {index}?" * (index + 1)}]) for index in range(10)]
    expected = []
    for prompt in prompts:
        new = base.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
        expected.append(new)
    defaults = base.generation_config
    defaults.do_sample, defaults.temperature, defaults.repetition_penalty = True, 5.0, 9.0
    base.config.use_cache = False
    model.train()
    recwarn.clear()
    completions = greedy_completions(model, renderer, prompts, STOP, max_new_tokens=12)
    for answer, new in zip(completions, expected, strict=True):
        stops = new[-1] == 2
        assert answer.tokens == len(new)
        assert answer.finish_reason == ("stop" if stops else "length")
        text = bytes(token - 6 for token in new if token >= 6).decode(errors="replace")
        assert answer.text == text
    assert {answer.finish_reason for answer in completions} <= {"stop", "length"}
    assert model.training
    assert base.generation_config is defaults
    assert base.config.use_cache is False
    assert not recwarn.list


def test_a_long_prompt_changes_no_other_answer(model_dir):
    """With longrope a batch is encoded as its longest sequence."""
    model, renderer = build.__wrapped__("Phi3", **LONGROPE), renderer_of(model_dir)
    prompts = [[1, *range(10, 10 + count)] for count in (2, 3, 4, 20)]
    alone = [greedy_completions(model, renderer, [prompt], STOP, max_new_tokens=3) for prompt in prompts]
    assert greedy_completions(model, renderer, prompts, STOP, max_new_tokens=3) == [answer for (answer,) in alone]


def test_an_answer_ends_before_its_stop_token(model_dir):
    """A model whose every answer is "hm": h after the prompt's last token, m after h, then the end."""
    h, m = ids_of("hm")
    model = plain(model_dir, dtype=torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1)
        for row, (token, follows) in enumerate([(5, h), (h, m), (m, 2)]):
            model.model.embed_tokens.weight[token, row] = 1
            model.lm_head.weight[follows, row] = 1
    prompts = [[1, 4, *ids_of("a long question"), 2, 5], [1, 4, *ids_of("q"), 2, 5]]
    completions = greedy_completions(model, renderer_of(model_dir), prompts, [2])
    assert [(answer.text, answer.finish_reason, answer.tokens) for answer in completions] == [("hm", "stop", 3)] * 2
    (cut,) = greedy_completions(model, renderer_of(model_dir), prompts[:1], [2], max_new_tokens=1)
    assert (cut.text, cut.finish_reason, cut.tokens) == ("h", "length", 1)
    assert greedy_completions(model, renderer_of(model_dir), [], [2]) == []
