"""Ask the base model and an adapter the same questions, under the same system prompt, side by side.

python examples/compare.py runs/llama-driver examples/data/llama-driver.heldout.json
"""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

import arriero

adapter, questions = sys.argv[1:]
rows = json.loads(Path(questions).read_text(encoding="utf-8"))
asked = [row["instruction"] for row in rows if not row["input"]][:6]

tuned = arriero.load(adapter=adapter)
base = arriero.load(tuned.model, system=tuned.renderer.system)
table = Table("question", "base", "tuned", show_lines=True)
for question in asked:
    messages = [{"role": "user", "content": question}]
    answers = [chat.complete(messages, arriero.Sampling(max_new_tokens=60)) for chat in (base, tuned)]
    table.add_row(question, *(answer.text + (" …" if answer.finish_reason == "length" else "") for answer in answers))
Console(width=120).print(table)
base.close()
tuned.close()
