"""The inspect report: every number counted by hand."""

from __future__ import annotations

import json

import pytest

from arriero.data import DataOptions, inspect, load
from arriero.data.page import page
from arriero.data.report import Bar
from arriero.prompt import Renderer
from tests.conftest import SHARED_DATA, build_tokenizer

RENDERER = Renderer(build_tokenizer(), (2,), system="sys")
ROWS = [("ab", "c"), ("ab", "c"), ("ab", "d"), ("x", "long answer"), ("", "y")]


@pytest.fixture
def report(home, tmp_path):
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"instruction": q, "input": "", "output": a} for q, a in ROWS]))
    return inspect(load(file), RENDERER, DataOptions(eval_fraction=0), window=256, batch_size=3, limit=1)


def test_counts(report):
    # <s> <sys> s y s </s> <user> are 7 ids that all rows begin with; then q </s> <bot> a </s>
    lengths = [7 + len(q) + 2 + len(a) + 1 for q, a in ROWS[:4]]
    assert (report.rows, report.kept, report.format) == (5, 4, "alpaca")
    assert [(drop.row, drop.reason) for drop in report.dropped] == [(4, "the instruction is empty")]
    assert report.duplicates == 1
    assert report.contradictions == 1
    assert report.tokens == sum(lengths)
    assert report.loss_tokens == sum(len(a) + 1 for _, a in ROWS[:4])
    assert report.prefix_tokens == 7
    assert report.computed_tokens == sum(lengths) - 7 * (4 - 2), "two steps of three rows compute it once each"
    assert report.longest == max(lengths)
    assert sum(bar.rows for bar in report.lengths) == 4
    assert report.lengths[0] == Bar(12, 13, 3)


def test_examples_show_ids_mask_and_text(report):
    (shown,) = report.examples
    assert (shown.file, shown.row) == ("rows.json", 0)
    assert shown.text == "<s><sys>sys</s><user>ab</s><bot>c</s>"
    assert [i for i, loss in enumerate(shown.mask) if loss] == [11, 12]
    assert len(shown.ids) == len(shown.mask) == 13


def test_the_prefix_ends_before_the_first_answer(home, tmp_path):
    """Equal rows share their answers too, but a shared prefix must hold no loss token."""
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"instruction": "q", "output": "same"}] * 3))
    report = inspect(load(file), RENDERER, DataOptions(), window=256)
    assert report.prefix_tokens == 7 + 1 + 2


def test_the_page_shows_figures_and_escapes_what_the_data_says(report, home, tmp_path):
    file = tmp_path / "evil.json"
    file.write_text(json.dumps([{"instruction": "<script>alert(1)</script>", "output": "<b>&"}]))
    evil = inspect(load(file), RENDERER, DataOptions(), window=256)
    text = page(evil, lambda token: RENDERER.tokenizer.decode([token]), RENDERER.is_special)
    assert "<script" not in text
    assert "&lt;" in text
    text = page(report, lambda token: RENDERER.tokenizer.decode([token]), RENDERER.is_special)
    assert "<svg" in text
    assert "3 rows of 12 to 13 tokens" in text
    assert "the instruction is empty" in text
    assert 'class="t loss special" title="2"' in text
    assert "://" not in text, "the page loads nothing"


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared data is not here")
def test_the_tutorial_s_data_with_the_tutorial_s_model(home, llama_tokenizer):
    """112 exact duplicates; 47 of 106 tokens a row are the same everywhere, so sharing them is worth 1.7 times."""
    renderer = Renderer(llama_tokenizer, (128001, 128008, 128009), system="现在你要扮演皇帝身边的女人--甄嬛")
    report = inspect(load(SHARED_DATA / "huanhuan.json"), renderer, DataOptions(), window=131072)
    assert (report.rows, report.kept, report.duplicates) == (3729, 3729, 112)
    assert report.prefix_tokens == 47
    assert report.tokens // report.kept == 106
    assert report.tokens - report.computed_tokens == 47 * (3729 - 234)
