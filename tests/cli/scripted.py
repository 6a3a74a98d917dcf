"""`python -m tests.cli.scripted MODEL_DIR GATE ANSWER ARGUMENT …`: the command line, over a scripted chat."""

from __future__ import annotations

import sys
from pathlib import Path

from arriero.chat import Chat
from arriero.cli import ask
from arriero.cli.main import main
from arriero.messages import Sampling
from arriero.prompt import resolve
from tests.conftest import ScriptedEngine


def run(model_dir: str, gate: str, answer: str, *arguments: str) -> int:
    engine = ScriptedEngine(answer, gate=None if gate == "-" else int(gate))
    defaults = Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
    chat = Chat(engine, resolve(Path(model_dir)).renderer, model="tiny", adapter=None, window=256, defaults=defaults)
    ask.load_chat = lambda *_: chat
    return main(list(arguments))


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
