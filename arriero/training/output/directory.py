"""The adapter directory: who may write into it, what is in it when a run is done.

adapter_config.json, adapter_model.safetensors   PEFT's own format
arriero.json     the prompt contract, written last: a directory that has it is finished
metrics.jsonl    one line per optimizer step, and one per evaluation
report.json      the run's figures, options, plan, dropped rows, answers; report.html shows it, with curves
README.md        model card
checkpoints/     for resume only; run.json in it says which run they belong to
.lock            held by the process that trains; names that process
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError

from arriero.errors import DISK_FULL, ArrieroError, UsageError
from arriero.hub import read_json
from arriero.hub.adapter_files import CONFIG, WEIGHTS
from arriero.locks import held, is_held
from arriero.prompt import CONTRACT_FILE, Contract
from arriero.training.options import TrainOptions
from arriero.training.output import checkpoint
from arriero.training.output.card import card
from arriero.training.output.page import page

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
PLAN = "plan.json"
REPORT = "report.json"
RECORD = "run.json"
TENSORBOARD = "tensorboard"
LOCK = ".lock"
UNWRITABLE = (*DISK_FULL, errno.EFBIG, errno.EROFS)
Identity = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a run did. Losses are nats per loss token; eval_loss is None when nothing was held out.

    `logical` tokens are those of the examples, `computed` ones include padding. `resumed_from` is the optimizer step
    a resumed run started at.
    """

    output: str
    steps: int
    samples: int
    epochs: float
    train_loss: float
    eval_loss: float | None
    seconds: float
    logical_tokens_per_second: float
    computed_tokens_per_second: float
    peak_memory_bytes: int
    resumed_from: int | None


@contextmanager
def claimed(output: Path, identity: Identity, *, resume: bool, owner: bool = True) -> Iterator[TrainReport | None]:
    """Make `output` this run's directory, and nobody else's while the block runs.

    Yields the report when the run is finished already. A block that ends before a step was saved leaves nothing
    behind. Of several workers one is the `owner`; the others join the run that it has claimed. Raises UsageError for a
    directory that another process trains into or that holds another run, a finished run without `resume`, or one
    whose data or options differ, naming the differences.
    """
    if not owner:
        yield _claim(output, identity, resume=True)
        return
    check(output, resume=resume)  # before anything is made in it
    try:
        with held(output / LOCK, lambda holder: refuse(output, holder)):
            finished = _claim(output, identity, resume=resume)
            try:
                yield finished
            finally:
                _release(output)
    finally:
        with contextlib.suppress(OSError):
            output.rmdir()  # if it is empty


def check(output: Path, *, resume: bool) -> None:
    """Raise what `claimed` would for what is in `output`, data and model unread; a run under way is left to it."""
    if not is_held(output / LOCK):
        _check(output, resume=resume)


@contextmanager
def explaining_full_disk(output: Path) -> Iterator[None]:
    """Raise ArrieroError where something in the block cannot be written, with what is kept; the rest passes."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno not in UNWRITABLE:
            raise
        _, step = last_checkpoint(output)
        kept = "nothing was saved" if step is None else f"the checkpoint of step {step} is kept"
        raise ArrieroError(
            f"{output} could not be written: {error}; {kept}",
            hint="free some space, then run the same command with --resume",
        ) from error


def refuse(output: Path, holder: str) -> NoReturn:
    """Say that another process, `holder`, writes the directory `output`."""
    raise UsageError(f"{output} is being written by {holder}", hint="wait for it, or give another --output")


def _check(output: Path, *, resume: bool) -> None:
    if (output / CHECKPOINTS / RECORD).is_file():
        if not resume:
            raise UsageError(
                f"{output} already holds a run", hint="add --resume to go on with it, or give another --output"
            )
    elif output.exists() and not _is_free(output):
        raise UsageError(f"{output} exists and is not a training output", hint="give another --output")


def _claim(output: Path, identity: Identity, *, resume: bool) -> TrainReport | None:
    _check(output, resume=resume)
    record = output / CHECKPOINTS / RECORD
    if record.is_file():
        _same_run(output, read_json(record), identity)
        return read_report(output) if (output / CONTRACT_FILE).is_file() else None
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, identity)
    return None


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON document, whole or not at all."""
    fresh = file.with_suffix(".partial")
    fresh.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    fresh.replace(file)


def _is_free(output: Path) -> bool:
    """Whether nothing is lost by starting a run here: an empty directory, or one of a run killed as it began."""
    if not output.is_dir() or any(path.name not in (CHECKPOINTS, LOCK) for path in output.iterdir()):
        return False
    return all(path.suffix == ".partial" for path in (output / CHECKPOINTS).rglob("*") if path.is_file())


def _same_run(output: Path, before: Identity, now: Identity) -> None:
    defaults = json.loads(json.dumps(asdict(TrainOptions())))  # of options that the earlier run did not know yet
    before, now = {**defaults, **_flat(before)}, _flat(now)
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        differences = "; ".join(f"{name} was {before.get(name)!r}, is now {now.get(name)!r}" for name in changed)
        hint = "repeat the options of the first run, --config included, or give another --output"
        raise UsageError(f"{output} holds a run that differs: {differences}", hint=hint)


def _flat(identity: Identity) -> Identity:
    """The identity with its options one level up."""
    return {**identity, **identity.get("options", {}), "options": None}


def read_report(output: Path) -> TrainReport:
    """What the finished run in `output` did."""
    return TrainReport(**read_json(output / REPORT)["result"])


def _release(output: Path) -> None:
    """Give up a directory in which no step was saved, so that nothing half-written stays behind."""
    checkpoints = output / CHECKPOINTS
    if any(checkpoints.glob("checkpoint-*")) or (output / CONTRACT_FILE).exists():
        return
    for folder in (checkpoints, output / TENSORBOARD):
        shutil.rmtree(folder, ignore_errors=True)
    (output / METRICS).unlink(missing_ok=True)


def last_checkpoint(output: Path) -> tuple[Path | None, int | None]:
    """The newest checkpoint and its step."""
    checkpoints = checkpoint.by_step(output / CHECKPOINTS)
    return (checkpoints[max(checkpoints)], max(checkpoints)) if checkpoints else (None, None)


def mean_loss(output: Path) -> float:
    """Mean of the loss over all optimizer steps, those before a resume included."""
    lines = (output / METRICS).read_text(encoding="utf-8").splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    return math.fsum(losses) / len(losses)


def keep_metrics_before(output: Path, step: int, *, evaluation: bool) -> None:
    """Drop metric lines that a resumed run will write again: those from `step`, or from its `evaluation`, on."""
    file = output / METRICS
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.is_file() else []
    whole = [(line, json.loads(line)) for line in lines if line.endswith("\n")]
    kept = [line for line, values in whole if (values["step"], "loss" not in values) < (step, evaluation)]
    file.write_text("".join(kept), encoding="utf-8")


def finish(adapter: Path, output: Path, contract: Contract, document: dict[str, Any]) -> None:
    """Move the saved adapter into place and write everything beside it, the contract last."""
    metrics = [json.loads(line) for line in (output / METRICS).read_text(encoding="utf-8").splitlines()]
    write_json(output / REPORT, document)
    (output / "report.html").write_text(page(document, metrics), encoding="utf-8")
    (output / "README.md").write_text(card(document), encoding="utf-8")
    for name in (CONFIG, WEIGHTS):
        checkpoint.onto_disk(adapter / name)
        (adapter / name).replace(output / name)
    checkpoint.onto_disk(output)
    shutil.rmtree(adapter)
    contract.save(output)
