"""Files that the hubs' own clients have fetched before, in the layouts of all their versions.

Nothing here is taken for granted: the caller checks size and hash before it uses a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def at_huggingface(repository: str, kind: str, hashes: tuple[str | None, ...]) -> Iterator[Path]:
    """In huggingface_hub's cache a file is named by its hash: SHA-256, or git's SHA-1 for one that is not in LFS."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind) / "blobs"
    return (blob for name in hashes if name is not None and (blob := blobs / name).is_file())


def at_modelscope(repository: str, kind: str, name: str) -> Iterator[Path]:
    """ModelScope's client keeps a file by its name; before modelscope 1.38 it wrote a dot in a directory's as ___."""
    from modelscope_hub import HubConfig

    base = Path(HubConfig().cache_dir)
    owner, _, model = repository.partition("/")
    earlier = model.replace(".", "___")
    directories = [
        *sorted((base / f"{kind}s" / f"{owner}--{model}" / "snapshots").glob("*")),
        base / f"{kind}s" / owner / earlier,
        base / "hub" / f"{kind}s" / owner / earlier,
        base / "hub" / owner / earlier,
    ]
    return (file for directory in directories if (file := directory / name).is_file())
