"""doctor: what this machine has and what Arriero would use."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import psutil
from cyclopts import App

from arriero import __version__, hub, settings
from arriero.cli import output
from arriero.cli.options import Json, examples
from arriero.errors import ArrieroError
from arriero.hardware import SPEEDUPS, fast_bfloat16, gpu_fault, gpus

PACKAGES = (
    "torch transformers peft openvino openvino-genai nncf vllm vllm-bnb-plugin liger-kernel bitsandbytes fastapi "
    "streamlit langchain-core modelscope-hub ray"
)
app = App(name="doctor", help_epilogue=examples("doctor", "doctor --json", "doctor --ray auto"))


@app.default
def doctor(*, ray: str | None = None, as_json: Json = False) -> None:
    """Say what this machine has, and what Arriero would use.

    Which engine and precision, and why; what a GPU lacks for full speed.

    Parameters
    ----------
    ray
        Look at a Ray cluster too: HOST:PORT, or auto for the one this machine belongs to.

    """
    report = _examine()
    if ray is not None:
        from arriero.cluster.report import examine

        report["ray"] = examine(ray)
    if as_json:
        output.document(report)
    else:
        _print(report)
    if report["home_fault"] is not None:
        raise ArrieroError(
            f"nothing can be kept in {report['home']}: {report['home_fault']}",
            hint="ARRIERO_HOME=DIR, a directory that you may write to",
        )
    if ray is not None and (wrong := report["ray"]["wrong"]):
        raise ArrieroError(f"the Ray cluster at {ray} cannot be used as it is", hint=wrong[0]["try"])


def _print(report: dict[str, Any]) -> None:
    for name, value in report.items():
        if isinstance(value, dict):
            print(f"{name}")
            for key, detail in value.items():
                for line in detail if isinstance(detail, list) else [detail]:
                    print(f"  {key:18} {_line(line)}")
        elif value is not None:
            print(f"{name:20} {value}")


def _line(detail: object) -> str:
    if isinstance(detail, dict):
        return (
            ", ".join(f"{name} {_line(value)}" for name, value in detail.items() if value not in (None, (), ""))
            or "none"
        )
    return "not installed" if detail is None else str(detail)


def _examine() -> dict[str, Any]:
    from arriero.engines.select import select_engine, usable

    memory = psutil.virtual_memory()
    home = settings.home()
    existing = next(parent for parent in (home, *home.parents) if parent.exists())
    choice = select_engine()
    cuda, fast, fault = gpus(), fast_bfloat16(), gpu_fault()
    computes = f"the {'GPU' if cuda else 'CPU'} {'computes' if fast else 'does not compute'} bfloat16 in hardware"
    return {
        "arriero": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_cores": psutil.cpu_count(logical=False),
        "memory": f"{output.size(memory.available)} free of {output.size(memory.total)}",
        "disk": f"{output.size(shutil.disk_usage(existing).free)} free",
        "gpus": ", ".join(cuda) or ("none" if fault is None else f"none that torch can use: {fault}"),
        "home": str(home),
        "home_fault": _write_fault(existing),
        "models": ", ".join(model.name for model in hub.models()) or "none",
        "engine": {"name": choice.engine, "because": choice.reason},
        "engines": {name: "usable" if lacking is None else lacking for name, lacking in usable().items()},
        "precision": {
            "training": "bfloat16" if fast else "float32",
            "answering": "int8" if choice.engine == "openvino" else "the model's own" if fast else "float32",
            "because": computes,
        },
        "full_speed": _full_speed() if cuda else None,
        "packages": {package: _version(package) for package in PACKAGES.split()},
    }


def _write_fault(directory: Path) -> str | None:
    """What keeps files from being written in a directory; None: nothing."""
    try:
        with tempfile.TemporaryFile(dir=directory):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _full_speed() -> dict[str, str]:
    """For each package that a GPU wants: "installed", or what it would bring and how to get it."""
    return {
        name: "installed" if speedup.installed else f"not installed; {speedup.merit}: {speedup.install}"
        for name, speedup in SPEEDUPS.items()
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
