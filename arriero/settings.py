"""Where things live on disk, and the environment variables that move them.

    ARRIERO_HOME      models, caches and conversations; default: the platform's data directory for arriero
    ARRIERO_MODEL     the model used without --model; default: `model` in ARRIERO_HOME/config.toml, or the embedded one

The tables of config.toml are the command line's: [serve] sets what `arriero serve` does without an option. All of it is
read when asked for, never at import, so that a test or a long-lived process may change it.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

from arriero.errors import UsageError

EMBEDDED_MODEL = "smollm2-135m-instruct"
EMBEDDING_MODEL = "all-minilm-l6-v2"


def home() -> Path:
    """The directory under which Arriero keeps everything; not created here."""
    chosen = os.environ.get("ARRIERO_HOME")
    if chosen:
        return Path(chosen).expanduser().resolve()
    from platformdirs import user_data_path

    return user_data_path("arriero", appauthor=False)


def models_dir() -> Path:
    """One directory per downloaded model."""
    return home() / "models"


def cache_dir() -> Path:
    """What can be made again: exported engine files, rendered data."""
    return home() / "cache"


def config_file() -> Path:
    """The file of settings; there may be none."""
    return home() / "config.toml"


def configured() -> dict[str, Any]:
    """What the file of settings says, nothing where there is none; UsageError with the line where it is no TOML."""
    try:
        return read_toml(config_file())
    except (FileNotFoundError, NotADirectoryError):
        return {}


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file; UsageError with file and line where it is something else."""
    text = path.read_text(encoding="utf-8")
    try:
        return tomllib.loads(text)
    except ValueError as error:
        reason, _, position = str(error).partition(" (at ")  # "line 2, column 3)" or "end of document)"
        number = re.match(r"line (\d+)", position)
        line = int(number[1]) if number is not None else len(text.splitlines())
        raise UsageError(f"{path}, line {line}: {reason}") from error


def default_model() -> str:
    """Name or path of the model used when none is given."""
    return os.environ.get("ARRIERO_MODEL") or str(configured().get("model") or EMBEDDED_MODEL)
