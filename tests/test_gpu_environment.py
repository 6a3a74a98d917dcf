"""The extra `gpu`: that one environment holds all of it, as a resolver sees it. Nothing is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from arriero.hardware import SPEEDUPS

ROOT = Path(__file__).parents[1]
PINS = ROOT / "constraints-gpu.txt"
TARGET = ("--python-version", "3.12", "--python-platform", "x86_64-unknown-linux-gnu")
UNREACHED = re.compile(r"failed to fetch|request failed|error sending request|dns error|timed out", re.IGNORECASE)
PROMISED = {"torch", "peft", "bitsandbytes", "liger-kernel", "vllm", "fastapi", "streamlit", "langchain-core"}
EXTRA = re.compile(r'"arriero\[([^]]+)\]"')


def pins(text: str) -> dict[str, str]:
    """Package -> version, of lines `package==version`."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def resolved(*arguments: object) -> dict[str, str]:
    """What uv would install."""
    if (uv := shutil.which("uv")) is None:
        pytest.skip("uv is not installed")
    command = [uv, "pip", "compile", *TARGET, "--no-header", "--no-annotate", "--quiet", *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    if ended.returncode and UNREACHED.search(ended.stderr):
        pytest.skip(f"the package index cannot be reached: {ended.stderr.strip()[-200:]}")
    assert ended.returncode == 0, ended.stderr
    return pins(ended.stdout)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_environment_holds_training_vllm_and_serving_at_the_pinned_versions():
    """vLLM wanted an environment of its own; a pin that does not resolve, or is missing, would want one again."""
    listed = pins(PINS.read_text())
    assert listed.keys() >= PROMISED
    assert resolved("pyproject.toml", "--extra", "gpu", "--constraint", PINS) == listed


def test_what_doctor_has_one_install_is_pinned_with_the_rest():
    """Each command names an extra that holds the package and is part of `gpu`, so it works with the constraints."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    together = {"gpu"}
    for _ in extras:
        lines = " ".join(f'"{requirement}"' for name in together for requirement in extras[name])
        together |= {name for found in EXTRA.findall(lines) for name in found.split(",")}
    found = {name: EXTRA.search(speedup.install) for name, speedup in SPEEDUPS.items()}
    elsewhere = {name for name, extra in found.items() if extra is None}
    assert elsewhere == {"flash-attn-3", "flashinfer-jit-cache"}, "which no index has"
    for name, extra in found.items():
        if extra is not None:
            assert extra[1] in together
            assert any(re.match(rf"{name}\b(?!-)", requirement) for requirement in extras[extra[1]]), name
            assert name in pins(PINS.read_text())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pins_that_do_not_fit_together_are_found(tmp_path):
    """The check above can fail: vLLM takes no transformers this old."""
    other = re.sub(r"(?m)^transformers==.*$", "transformers==5.0.0", PINS.read_text())
    (tmp_path / "pins.txt").write_text(other)
    with pytest.raises(AssertionError, match="transformers"):
        resolved("pyproject.toml", "--extra", "gpu", "--constraint", tmp_path / "pins.txt")
