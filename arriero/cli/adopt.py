"""adopt: a prompt contract for an adapter from elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from arriero.cli import output
from arriero.cli.early import check
from arriero.cli.options import Json, PromptOptions, examples, plain
from arriero.hub.adapter_files import SAVED, check_config

PROMPT = PromptOptions()
app = App(
    name="adopt",
    help_epilogue=examples(
        'adopt saves/llama3/lora/sft --system "You are Tomás."',
        "adopt output/checkpoint-300 --model llama-3.1-8b-instruct --output runs/huanhuan",
    ),
)


@app.default
def adopt(
    directory: str,
    /,
    *,
    model: str | None = None,
    system: str | None = None,
    prompt: PromptOptions = PROMPT,
    output_dir: Annotated[Path | None, Parameter(name="--output")] = None,
    as_json: Json = False,
) -> None:
    """Give an adapter from elsewhere (PEFT, LLaMA-Factory, Unsloth, ms-swift) its prompt contract.

    Parameters
    ----------
    directory
        PEFT's directory (adapter_config.json, adapter_model.safetensors), or a Trainer's checkpoint-N.
    model
        Catalogue name, repository id or directory of the base model. Default: the one that the adapter names.
    system
        The system prompt that the adapter was trained with. Default: the chat template's own.
    output_dir
        Directory to copy the adapter to. Default: the contract is written into the adapter's own.

    """
    check_config(Path(directory).expanduser().resolve(), SAVED)
    check(model=model)
    from arriero.prompt.adopt import adopt as run

    adopted = run(directory, model=model, system=system, output=output_dir, **plain(prompt))
    if as_json:
        document = {"adapter": str(adopted.adapter_dir), "model": str(adopted.model_dir)}
        output.document({**document, "system": adopted.renderer.system})
        return
    print(adopted.adapter_dir)
    output.prompt(adopted.renderer.system, adopted.contract_name)
    output.note(f"base model: {adopted.model_dir}")
    output.note(f'try: arriero ask "Who are you?" --adapter {shlex.quote(str(output_dir or directory))}')
