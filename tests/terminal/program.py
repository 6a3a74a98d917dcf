"""`python -m tests.terminal.program MODEL_DIR GATE ANSWER …`: the conversation of `arriero chat`, over a script.

GATE is the token before which every answer waits for ever, - for none.
"""

from __future__ import annotations

import sys
from pathlib import Path

from arriero.chat import Chat
from arriero.history import History
from arriero.messages import Sampling
from arriero.prompt import resolve
from arriero.terminal import converse
from tests.conftest import ScriptedEngine


def main(model_dir: str, gate: str, *answers: str) -> None:
    engine = ScriptedEngine(*answers, gate=None if gate == "-" else int(gate))
    defaults = Sampling(temperature=0.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
    renderer = resolve(Path(model_dir)).renderer
    chat = Chat(engine, renderer, model="tiny", adapter=None, window=256, defaults=defaults)
    converse(chat, Sampling(), history=History())


if __name__ == "__main__":
    main(*sys.argv[1:])
