"""Kill a training run at moments spread over its file operations, resume it, and print what came of it as JSON.

`python -m tests.training.kill_points ROWS MODEL FOLDER COUNT OPTIONS`, the last as JSON: one uninterrupted run, which
also counts the operations, then for each of COUNT moments a run that is killed there (SIGKILL, from an audit hook) and
one that resumes.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, Trainer  # noqa: F401  imported for the forked ones

from arriero.training.run import train

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
OPTIONS = {
    "system": "Be Killa.", "epochs": 6, "batch_size": 4, "learning_rate": 0.01, "precision": "float32", "dropout": 0.1,
    "eval_fraction": 0.3, "save_steps": 2, "warmup_steps": 2, "lr_scheduler_type": "cosine", "report_answers": 0,
}  # fmt: skip


def attempt(rows: str, model: str, output: Path, *, resume: bool, kill_at: int = 0) -> int:
    """Train in a forked process; returns how many file operations in `output` it came to, -1 if it was killed."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        seen = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in EVENTS and str(output) in str(arguments[0]):
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        status = 1
        try:
            train(rows, output=output, model=model, resume=resume, **OPTIONS)
            os.write(writer, str(seen).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    content = os.read(reader, 100)
    os.close(reader)
    status = os.waitpid(process, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the run failed"
    return int(content) if content else -1


def outcome(output: Path) -> tuple[str, list[tuple[int, float | None]]]:
    """The adapter's hash, and the steps and evaluations that metrics.jsonl has."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    adapter = (output / "adapter_model.safetensors").read_bytes()
    return hashlib.sha256(adapter).hexdigest(), [(line["step"], line.get("eval_loss")) for line in lines]


def main() -> None:
    """As the module says."""
    rows, model, folder, count, options = sys.argv[1:]
    OPTIONS.update(json.loads(options))
    torch.set_num_threads(1)  # threads do not survive a fork
    gc.freeze()  # each run ends by a collection, which would take half of its time
    whole = Path(folder) / "whole"
    operations = attempt(rows, model, whole, resume=False)
    digest, steps = outcome(whole)
    killed = []
    last = operations - 2  # of what comes after, the output is finished
    for number in sorted({round(1 + (last - 1) * place / (int(count) - 1)) for place in range(int(count))}):
        output = Path(folder) / f"killed-{number}"
        was_killed = attempt(rows, model, output, resume=False, kill_at=number) == -1
        attempt(rows, model, output, resume=True)
        adapter_hash, steps_made = outcome(output)
        killed.append({"at": number, "killed": was_killed, "hash": adapter_hash, "steps": steps_made})
    print(json.dumps({"whole": digest, "steps": steps, "killed": killed}))


if __name__ == "__main__":
    main()
