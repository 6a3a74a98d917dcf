"""How many tokens training computes: with prefixes shared as a tree, with one prefix per step, and without sharing.

Counted, not timed. The rows are made of the demo data's questions and answers, with the tokenizer of --model: talks of
four turns under a template that drops reasoning from history, so that every answer is an example of its own; and ten
answers to each prompt, beside which others stand in a step. Steps are those that a run of seed 0 would make.

    python -m benchmarks.training.sharing [--model smollm2-135m-instruct] [--batch-size 16]
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path

from arriero import hub
from arriero.messages import Conversation, Message
from arriero.prompt import Rendered, Renderer, load_tokenizer, stop_token_ids
from arriero.settings import EMBEDDED_MODEL
from arriero.training.pack import tokens_of
from arriero.training.trainer import StepOrder
from benchmarks.lib import command
from benchmarks.lib.sheets import Sheet

ROWS = Path(__file__).resolve().parents[2] / "examples" / "data" / "llama-driver.json"
TURNS, ANSWERS, TALKS = 4, 10, 60
REWRITING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def flat(examples: Sequence[Rendered]) -> int:
    """Tokens where only what all examples begin with, before any answer, is computed once."""
    common = len(commonprefix([example.ids for example in examples]))  # noqa: RUF071  of any sequences
    prefix = min(common, *(example.loss_spans[0][0] for example in examples)) if len(examples) > 1 else 0
    return prefix + sum(len(example.ids) - prefix for example in examples)


def talks(pairs: Sequence[tuple[str, str]]) -> list[Conversation]:
    """Conversations of several turns, each with reasoning, for which another answer stands in."""
    made = []
    for number in range(TALKS):
        turns: list[Message] = []
        for turn in range(TURNS):
            question, answer = pairs[(number * TURNS + turn) % len(pairs)]
            thought = pairs[(number * 7 + turn * 3 + 1) % len(pairs)][1]
            turns += [Message("user", question), Message("assistant", f"<think>\n{thought}\n</think>\n\n{answer}")]
        made.append(Conversation(tuple(turns)))
    return made


def alternatives(pairs: Sequence[tuple[str, str]]) -> list[Conversation]:
    """Ten answers to each of some prompts, which quote a longer text."""
    made = []
    for number in range(TALKS // 3):
        quoted = "\n".join(answer for _, answer in (pairs[(number + step) % len(pairs)] for step in range(4)))
        prompt = Message("user", f"{quoted}\n\n{pairs[number][0]}")
        answers = (pairs[(number * 5 + step) % len(pairs)][1] for step in range(ANSWERS))
        made += [Conversation((prompt, Message("assistant", answer))) for answer in answers]
    return made


def counted(renderer: Renderer, conversations: Sequence[Conversation], batch_size: int, *, apart: bool) -> list[str]:
    """Cells of the table; with `apart` the rows of one prompt are in one step, as they stand in the file."""
    rows = [renderer.examples(conversation) for conversation in conversations]
    order = [list(range(at, min(at + batch_size, len(rows)))) for at in range(0, len(rows), batch_size)]
    unshared = flat_prefix = tree = 0
    for step in order if apart else StepOrder(len(rows), batch_size, 0):
        examples = [example for index in step for example in rows[index]]
        unshared += tokens_of(examples, share=False)
        flat_prefix += flat(examples)
        tree += tokens_of(examples, share=True)
    return [f"{unshared:,}", f"{flat_prefix:,}", f"{tree:,}", f"{flat_prefix / tree:.2f}x"]


def main() -> None:
    """Print the table."""
    parser = command.parser(__doc__)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    document = command.facts() | {"rows": measured(options.model or EMBEDDED_MODEL, options.batch_size)}
    heads = ["tokens of an epoch", "unshared", "one prefix", "tree", "less"]
    command.show(document, [Sheet("Tokens that training computes", heads, document["rows"])], options)


def measured(model: str, batch_size: int) -> list[list[str]]:
    """The table's rows."""
    directory = hub.resolve(model)
    tokenizer = load_tokenizer(directory)
    stops = stop_token_ids(tokenizer, directory)
    plain = Renderer(tokenizer, stops, "Be brief.")
    pairs = [(row["instruction"], row["output"]) for row in json.loads(ROWS.read_text(encoding="utf-8"))]
    several = alternatives(pairs)
    rows = [
        ["ten answers to a prompt, shuffled", *counted(plain, several, batch_size, apart=False)],
        ["ten answers to a prompt, side by side", *counted(plain, several, batch_size, apart=True)],
        ["ten answers to one prompt alone", *counted(plain, several[:ANSWERS], batch_size, apart=True)],
    ]
    tokenizer.chat_template = REWRITING
    rewriting = Renderer(tokenizer, stops, "Be brief.")
    return [*rows, ["four turns, reasoning not shown again", *counted(rewriting, talks(pairs), 4, apart=False)]]


if __name__ == "__main__":
    main()
