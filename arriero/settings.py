"""Where things live on disk, and the environment variables that move them.

    ARRIERO_HOME      models, caches and conversations; default: the platform's data directory for arriero
    ARRIERO_MODEL     the model used without --model; default: the small embedded one

Read when asked for, never at import, so that a test or a long-lived process may change them.
"""

from __future__ import annotations

import os
from pathlib import Path

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


def default_model() -> str:
    """Name or path of the model used when none is given."""
    return os.environ.get("ARRIERO_MODEL") or EMBEDDED_MODEL
