"""web: the page in the browser, over this machine's models or another server's."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Callable
from typing import Annotated

from cyclopts import App, Parameter

from arriero.cli import output
from arriero.cli.options import ServedOptions, examples
from arriero.cli.serve import ACCESS, HANDLING, LIMITS, MODEL, AccessOptions, start
from arriero.errors import UsageError
from arriero.server.admission import Limits

app = App(
    name="web",
    help_epilogue=examples(
        "web",
        "web --adapter tomas=runs/llama-driver",
        "web --server http://machine:6006 --api-key-file key.txt",
    ),
)


@app.default
def web(
    *,
    model: ServedOptions = MODEL,
    access: AccessOptions = ACCESS,
    limits: Annotated[Limits, Parameter(name="*")] = LIMITS,
    server: str | None = None,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    drain_seconds: float = 30.0,
) -> None:
    """Serve, and open the web page in the browser.

    It is `serve`, or with --server the page alone, over another server's models.

    Parameters
    ----------
    server
        Address of an OpenAI-compatible server, such as http://machine:6006. No model is loaded here then; the key in
        --api-key-file, or in ARRIERO_API_KEY, is sent to it.
    browser
        Open the browser; with --no-browser the address is only printed.
    drain_seconds
        How long answers in flight may still take once the server receives a signal to end.

    """

    def opened(address: str) -> None:
        if browser and not webbrowser.open(address):
            output.note(f"no browser could be opened; the page is at {address}")

    if server is None:
        start(model, access, limits, drain_seconds=drain_seconds, log_json=False, handling=HANDLING, then=opened)
    else:
        if model != MODEL:
            raise UsageError("with --server no model is loaded here", hint="leave out --model and what belongs to it")
        _page(server, access, opened)


def _page(server: str, access: AccessOptions, opened: Callable[[str], None]) -> None:
    """The page alone, on loopback."""
    from arriero.server.auth import read_keys
    from arriero.server.lifecycle import listen
    from arriero.web import Remote
    from arriero.web.alone import run

    if access.host not in ("127.0.0.1", "localhost"):
        raise UsageError(f"with --server the page is at 127.0.0.1 only, got --host {access.host}")
    keys = list(read_keys(access.api_key_file, os.environ.get("ARRIERO_API_KEY")).values())
    if len(keys) > 1:
        raise UsageError(f"{access.api_key_file} must hold the one key of {server}, got {len(keys)}")
    backend = Remote(server, next(iter(keys), None))
    backend.choices()  # a wrong address or key raises here
    listener = listen(access.host, 0 if access.port == ACCESS.port else access.port)
    address = f"http://{access.host}:{listener.getsockname()[1]}"
    output.note(f"the page is at {address}, over the models of {backend.address}; Ctrl-C stops")
    run(backend, listener, lambda: opened(address))
