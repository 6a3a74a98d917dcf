"""models: what is on disk or could be; verify and remove it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cyclopts import App

from arriero import hub, settings
from arriero.cli import output
from arriero.cli.options import Json, examples
from arriero.errors import DownloadError

app = App(
    name="models",
    help_epilogue=examples(
        "models", "models --available", "models verify smollm2-135m-instruct", "models remove smollm2-135m-instruct"
    ),
)


@app.default
def list_models(*, available: bool = False, as_json: Json = False) -> None:
    """List what is on disk or could be; verify it, remove it.

    Parameters
    ----------
    available
        List instead the models that Arriero knows by name: parameters, size of the weights at 16 bits, context in
        tokens, licence (* where Hugging Face wants it accepted on the model's page), ids at the hubs.

    """
    if available:
        _list_available(as_json=as_json)
        return
    stored = hub.models()
    if as_json:
        output.document([_row(model) for model in stored])
        return
    if not stored:
        output.note(f"no models in {settings.models_dir()}; try: arriero download {settings.EMBEDDED_MODEL}")
    for model in stored:
        print(f"{model.name:32} {output.size(model.bytes):>9}  {model.source} {model.revision[:12]}  {model.path}")


def _list_available(*, as_json: bool) -> None:
    origins = list(hub.catalog.CATALOG.values())
    if as_json:
        output.document([{**asdict(origin), "bytes": origin.bytes} for origin in origins])
        return
    for origin in origins:
        where = {"huggingface": origin.huggingface, "modelscope": origin.modelscope, "wheel": origin.wheel}
        ids = ", ".join(f"{source}:{name}" for source, name in where.items() if name is not None)
        parameters = f"{(origin.parameters or 0) / 1e9:.3g}B"
        licence = f"{origin.licence}{'*' if origin.gated else ''}"
        print(
            f"{origin.name:31} {parameters:>6} {output.size(origin.bytes or 0):>9} {origin.context or 0:>7,}  "
            f"{licence:14} {ids}"
        )


@app.command
def verify(name: str, /, *, as_json: Json = False) -> None:
    """Compare a model's files with its manifest.

    Parameters
    ----------
    name
        As `arriero models` lists it.

    """
    model = hub.store.find(name)
    faults = hub.verify(model)
    if as_json:
        output.document({**_row(model), "verified": not faults, "faults": faults})
    if faults:
        raise DownloadError(
            f"{name}: {'; '.join(faults)}", hint=f"arriero models remove {name}, then download it again"
        )
    if not as_json:
        print(f"{name}: {len(model.files)} files are as they were downloaded")


@app.command
def remove(name: str, /, *, as_json: Json = False) -> None:
    """Delete a model from disk.

    Parameters
    ----------
    name
        As `arriero models` lists it.

    """
    model = hub.store.find(name)
    hub.remove(model)
    if as_json:
        output.document(_row(model))
    else:
        print(f"removed {model.path} ({output.size(model.bytes)})")


def _row(model: hub.StoredModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "path": str(model.path),
        "source": model.source,
        "revision": model.revision,
        "files": len(model.files),
        "bytes": model.bytes,
    }
