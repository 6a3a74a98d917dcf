"""What the variants are given: rows, their order, and their tokens in both layouts."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arriero.prompt import Rendered, Renderer, load_tokenizer, stop_token_ids
from benchmarks.lib.machine import Device
from benchmarks.training.tutorial_recipe import (
    ACCUMULATED,
    BATCH,
    MAX_LENGTH,
    Feature,
    feature,
    layout,
    padding_tokenizer,
)

SAMPLES = BATCH * ACCUMULATED  # of an optimizer step
PREFIX = 47  # tokens that the tutorial's rows share under Llama 3.1's template
USER, ANSWER = (
    (3.244, 0.689),
    (2.976, 0.807),
)  # of the logarithms of its questions' and answers' tokens: mean, deviation


@dataclass(frozen=True, slots=True)
class Workload:
    """The same rows in the same order for every variant.

    `steps` are the examples of every optimizer step as arriero renders them, the first `warm_ups` of which do not
    count; `features` the same as the tutorial lays them out, with one more end token each if `extra_end`. What the
    command itself is given are `rows` (alpaca format), from which it deals the same steps by `seed`. `held_out` are
    examples to measure on, `profiled` how many of the last step's are computed to see what they launch.
    """

    name: str
    steps: list[list[Rendered]]
    features: list[Feature]
    extra_end: bool = True
    rows: tuple[dict[str, str], ...] = ()
    system: str = ""
    seed: int = 0
    held_out: tuple[Rendered, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    warm_ups: int = 1
    profiled: int = SAMPLES

    def warmed_up_by(self, most: int) -> Workload:
        """The same counted steps, after no more than the first `most` of those before them."""
        return replace(
            self,
            steps=self.steps[: self.warm_ups][:most] + self.steps[self.warm_ups :],
            features=self.features[: SAMPLES * self.warm_ups][: SAMPLES * most]
            + self.features[SAMPLES * self.warm_ups :],
            warm_ups=min(most, self.warm_ups),
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One variant in one process. Without a `model` directory, random weights of `shape` (of a LlamaConfig)."""

    variant: str
    workload: Workload
    device: Device
    model: Path | None
    shape: dict[str, Any]
    learning_rate: float = 1e-4
    quality: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row that every variant can use, raw and in both layouts; equal `key`s are equal questions."""

    raw: dict[str, str]
    key: int
    example: Rendered
    feature: Feature


class Source:
    """Rows of a file that have one question and one answer and that the tutorial's 384 tokens do not cut."""

    def __init__(self, file: Path, model_dir: Path, system: str) -> None:
        from arriero import data, hub

        tokenizer = load_tokenizer(model_dir)
        self.system, self.stops = system, stop_token_ids(tokenizer, model_dir)
        renderer = Renderer(tokenizer, self.stops, system)
        options = data.DataOptions(join_input="nothing")
        loaded = data.load(file, options)
        rendered = data.render(loaded, renderer, options, min(MAX_LENGTH, hub.window(model_dir)))
        padding = padding_tokenizer(tokenizer)
        self.rows: list[Row] = []
        for index, (place, key) in enumerate(zip(rendered.row_ids, rendered.column("prompt_key"), strict=True)):
            messages = loaded.conversation(int(place)).messages
            if [message.role for message in messages] != ["user", "assistant"]:
                continue
            question, answer = (message.content for message in messages)
            columns = layout(question, answer, system, padding)
            if len(columns["input_ids"]) < MAX_LENGTH:
                raw = {"instruction": question, "input": "", "output": answer}
                self.rows.append(Row(raw, int(key), rendered[index][0], columns))

    def workload(self, name: str, steps: int, rows: int, seed: int) -> Workload:
        """`steps` optimizer steps over `rows` rows drawn at random, in as many epochs as that takes."""
        return self._dealt(name, self._drawn(self.rows, rows), steps, seed)

    def quality(self, rows: int, held_out: int, seed: int) -> Workload:
        """One epoch over `rows` rows, and about `held_out` others that share no question with them."""
        import numpy as np

        from arriero import data

        keys = np.array([row.key for row in self.rows])
        fraction = min(0.5, held_out / len(self.rows))
        training, others = ([self.rows[int(at)] for at in part] for part in data.split(keys, fraction, seed=0))
        chosen = self._drawn(training, rows)
        dealt = self._dealt("quality", chosen, len(chosen) // SAMPLES, seed)
        return replace(dealt, held_out=tuple(row.example for row in others))

    def _drawn(self, rows: Sequence[Row], wanted: int) -> list[Row]:
        count = min(wanted, len(rows)) // SAMPLES * SAMPLES
        if not count:
            raise SystemExit(f"{SAMPLES} rows at least are needed, and there are {min(wanted, len(rows))}")
        return random.Random(0).sample(list(rows), count)

    def _dealt(self, name: str, rows: list[Row], steps: int, seed: int) -> Workload:
        order = list(itertools.islice(dealt(len(rows), seed), steps))
        return Workload(
            name,
            [[rows[at].example for at in step] for step in order],
            [rows[at].feature for step in order for at in step],
            rows=tuple(row.raw for row in rows),
            system=self.system,
            seed=seed,
            stop_token_ids=self.stops,
        )


def dealt(rows: int, seed: int) -> Iterator[list[int]]:
    """The rows of step after step, as `arriero train` deals them."""
    from arriero.training.trainer import StepOrder

    order = StepOrder(rows, SAMPLES, seed)
    for order.epoch in itertools.count():
        yield from order


def write_rows(workload: Workload, file: Path) -> None:
    """The workload's rows as a data file."""
    file.write_text(json.dumps(list(workload.rows), ensure_ascii=False), encoding="utf-8")


def within(workload: Workload, vocabulary: int) -> Workload:
    """The same lengths and the same common prefix with ids below `vocabulary`."""
    return replace(
        workload,
        steps=[
            [replace(example, ids=tuple(token % vocabulary for token in example.ids)) for example in step]
            for step in workload.steps
        ],
        features=[
            {**row, "input_ids": [token % vocabulary for token in row["input_ids"]],
             "label": [token if token < 0 else token % vocabulary for token in row["label"]]}
            for row in workload.features
        ],
    )  # fmt: skip


def synthetic(steps: int, vocabulary: int, warm_ups: int = 1) -> Workload:
    """Random tokens in rows as long as the tutorial's under the Llama 3.1 tokenizer: 106 tokens, 27 of them loss.

    `steps` are the counted ones.
    """
    chance = random.Random(0)
    prefix = [chance.randrange(vocabulary) for _ in range(PREFIX)]
    examples = []
    for _ in range((warm_ups + steps) * SAMPLES):
        prompt = PREFIX + max(7, round(chance.lognormvariate(*USER)))
        total = min(prompt + max(2, round(chance.lognormvariate(*ANSWER))), MAX_LENGTH - 1)
        ids = (*prefix, *(chance.randrange(vocabulary) for _ in range(total - PREFIX)))
        examples.append(Rendered(ids, ((min(prompt, total - 1), total),)))
    features = [feature([*row.ids, row.ids[-1]], row.loss_spans[0][0]) for row in examples]
    return Workload("rows as long as the tutorial's", _in_steps(examples), features, warm_ups=warm_ups)


def full(steps: int, length: int, vocabulary: int) -> Workload:
    """Random rows of `length` tokens with nothing in common, a loss on every token; a warm-up and the counted steps."""
    chance = random.Random(1)
    examples = [
        Rendered(tuple(chance.choices(range(vocabulary), k=length)), ((0, length),))
        for _ in range((1 + steps) * SAMPLES)
    ]
    features = [feature(list(row.ids), 0) for row in examples]
    return Workload(f"full rows of {length:,} tokens", _in_steps(examples), features, extra_end=False, profiled=1)


def _in_steps(examples: list[Rendered]) -> list[list[Rendered]]:
    return [examples[at : at + SAMPLES] for at in range(0, len(examples), SAMPLES)]
