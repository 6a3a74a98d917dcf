"""Where a model's exported files are: under Arriero's cache, one directory for each model, tokenizer and precision."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import shutil
from pathlib import Path

from arriero import hub, settings
from arriero.locks import held

log = logging.getLogger(__name__)
EXPORT_FORMAT = 2  # raise it when what export() writes changes
MODEL = "openvino_model.xml"
VOCABULARY = "openvino_detokenizer.xml"


def exported(model_dir: Path, precision: str = "int8") -> Path:
    """The model's exported directory in the cache, exported now if it is not there yet.

    The directory appears whole or not at all; of several processes one exports and the others wait for it.
    """
    # whatever an export is made of is in its name, so that a change of it is another export and never a stale one
    configs = [(model_dir / name) for name in ("config.json", "tokenizer.json")]
    contents = [file.read_bytes() for file in configs if file.is_file()]
    versions = repr((hub.fingerprint(model_dir), EXPORT_FORMAT, importlib.metadata.version("openvino"))).encode()
    name = f"{model_dir.name}-{hashlib.sha256(b''.join([versions, *contents])).hexdigest()[:12]}-{precision}"
    target = settings.cache_dir() / "openvino" / name
    if (target / MODEL).is_file():
        return target
    with held(target.parent / f".{name}.lock", lambda holder: log.info("waiting for %s to export %s", holder, name)):
        if not (target / MODEL).is_file():  # nobody has exported it while this process waited
            from arriero.engines.openvino.export import export

            for left in target.parent.glob(f"{name}.*"):  # by an export that was killed
                shutil.rmtree(left)
            export(model_dir, target, precision)
    return target
