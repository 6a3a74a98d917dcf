"""merge: an adapter and its base model into one model directory."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from arriero.cli import output
from arriero.cli.early import check
from arriero.cli.options import Json, examples, plain

if TYPE_CHECKING:
    from arriero.training.adapter.merge import MergeReceipt
app = App(
    name="merge",
    help_epilogue=examples(
        "merge runs/llama-driver --output runs/llama-driver-merged",
        "merge runs/mine --output runs/mine-merged --data my.json",
    ),
)


@app.default
def merge(
    directory: str,
    /,
    *,
    output_dir: Annotated[Path, Parameter(name="--output")],
    model: str | None = None,
    data: str | None = None,
    rows: int = 16,
    allow_quantised: bool = False,
    as_json: Json = False,
) -> None:
    """Merge an adapter into its base model.

    The result is one ordinary model directory that any program can load. Arriero prompts it as the adapter was trained;
    other programs have to be given the system prompt. The receipt says how far the merged model is from the unmerged
    adapter; it is written as merge.json too.

    Parameters
    ----------
    directory
        Adapter directory: the --output of `arriero train`.
    output_dir
        Model directory to write; it must not exist, or be empty.
    model
        Directory or name of the base model. Default: the one the adapter names.
    data
        Data to compare on, besides the adapter's own sample: the held-out rows, or the first.
    rows
        At most this many rows of --data.
    allow_quantised
        Merge an adapter of a quantised base model into full-precision weights all the same.

    """
    check(adapter=directory, model=model, data=data)
    from arriero.training.adapter.merge import merge as run

    receipt = run(directory, output_dir, model=model, file=data, rows=rows, allow_quantised=allow_quantised)
    if as_json:
        output.document({"output": str(output_dir.expanduser().resolve()), **plain(receipt)})
        return
    _print_receipt(receipt)
    target = output_dir.expanduser().resolve()
    print(target)
    output.prompt(receipt.system, target.name)
    output.note(f"try: arriero chat --model {shlex.quote(str(output_dir))}")


def _print_receipt(receipt: MergeReceipt) -> None:
    output.note(
        f"merged {receipt.adapter} into {receipt.model}: {receipt.dtype}, {output.size(receipt.bytes)}\n"
        f"unmerged against merged, both computed in {receipt.dtype}, "
        f"at {receipt.positions} loss positions of {receipt.rows} rows:\n"
        f"  divergence (KL)    mean {receipt.mean_kl:.2e}, largest {receipt.max_kl:.2e} nats\n"
        f"  logit difference   mean {receipt.mean_logit_difference:.2e}, largest {receipt.max_logit_difference:.2e}\n"
        f"  most likely token  the same at {receipt.same_choice:.1%}"
    )
