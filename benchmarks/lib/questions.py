"""What is asked: questions with long answers, held-out ones, long prompts, prompts of any length; greedy sampling."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

from arriero.messages import Message, Sampling
from arriero.prompt import Renderer

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "data"
HELD_OUT = (EXAMPLES / "llama-driver.heldout.json", EXAMPLES / "llama-driver.zh.json")
MORE = (ROOT.parent / "shared" / "data" / "huanhuan.json", EXAMPLES / "llama-driver.json")
FORMS = (
    "Write a long and detailed story about {}.",
    "Explain in ten detailed paragraphs what a child should know about {}.",
    "Write the first chapter of a long novel about {}, with many descriptions.",
    "Tell me everything you know about {}, in as much detail as possible.",
)
TOPICS = (
    "a llama that crosses the Andes", "the invention of the printing press", "a lighthouse keeper", "volcanoes",
    "the market of a small town", "how bread is baked", "a journey by night train", "the life of bees",
    "a lost letter", "the building of a bridge", "the deep sea", "a village school in winter", "the moon",
    "an old clockmaker", "rivers and their floods", "a violin and its owners",
)  # fmt: skip
SENTENCE = "The mule driver counted bales of wool, bags of salt and the days that were left until the first snow. "


def long_answers() -> Iterator[str]:
    """Questions whose answers are long, without end and without repetition."""
    for year, (topic, form) in zip(itertools.count(1500), itertools.cycle(itertools.product(TOPICS, FORMS))):
        yield f"{form.format(topic)} It takes place in the year {year}."


def of_any_length(most: int) -> Iterator[str]:
    """Questions of 1 to `most` words, without end."""
    lengths, words = random.Random(0), itertools.cycle(SENTENCE.split())
    while True:
        yield " ".join(itertools.islice(words, lengths.randint(1, most)))


def held_out(count: int) -> list[str]:
    """Questions that no adapter of ours is trained on; the tutorial's are among them where its data is there."""
    questions: list[str] = []
    for file in (*HELD_OUT, *MORE):
        rows = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
        asked = [row["instruction"] for row in rows if row["instruction"].strip()]
        questions += asked if file in HELD_OUT else random.Random(0).sample(asked, len(asked))
    return list(dict.fromkeys(questions))[:count]


def long_prompts(renderer: Renderer, tokens: int) -> Iterator[list[int]]:
    """Prompts of about this many tokens that differ from their first words on."""
    return (prompt(renderer, question) for question in long_questions(renderer, tokens))


def long_questions(renderer: Renderer, tokens: int) -> Iterator[str]:
    """What these prompts ask."""
    for number in itertools.count(1000):
        shortest = len(prompt(renderer, f"Story {number}. {SENTENCE}"))
        sentence = len(prompt(renderer, f"Story {number}. {SENTENCE * 2}")) - shortest
        yield f"Story {number}. {SENTENCE * max(1, (tokens - shortest) // sentence + 1)}"


def prompt(renderer: Renderer, question: str) -> list[int]:
    """Prompt ids of a question."""
    return renderer.prompt([Message("user", question)])


def greedily(tokens: int) -> Sampling:
    """The most probable token each time, whatever the model's own defaults are."""
    return Sampling(
        max_new_tokens=tokens,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        repetition_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
    )
