"""serve: the HTTP API and the web page, who may use them and how much."""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from arriero.cli import output
from arriero.cli.options import ServedOptions, Texts, examples, named
from arriero.cli.page import mount_page
from arriero.errors import UsageError
from arriero.server.admission import Limits
from arriero.server.origins import LOCAL, SITE

if TYPE_CHECKING:
    from arriero.cluster.serving.scale import Deployment
    from arriero.server.auth import Keys
    from arriero.server.models import Models

log = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """Who may use it.

    Parameters
    ----------
    host
        Address to listen on. Anything but loopback needs a key.
    port
        Port to listen on; 0 takes any free one.
    api_key_file
        File with one API key, or a name and a key, on each line. Without it the one in ARRIERO_API_KEY counts.
    admin_key_file
        File with the key that may add and remove adapters. Without it the one in ARRIERO_ADMIN_KEY counts.
    no_api_key
        Let anybody who reaches the address use the model.
    allow_origin
        A site, such as https://example.org, whose pages may use this server, or * for all; https://*.example.org and
        http://example.org:* are many at once. May be given several times. On loopback without any key the pages of
        this machine's own programs may anyhow.
    allow_host
        A name this server is reached by; may be given several times. With it, and on loopback without a key, requests
        under other names are refused.
    tls_certfile
        Certificate chain in PEM, to serve HTTPS.
    tls_keyfile
        Its private key, unless that is in the same file.

    """

    host: str = "127.0.0.1"
    port: int = 6006
    api_key_file: Path | None = None
    admin_key_file: Path | None = None
    no_api_key: bool = False
    allow_origin: Texts = ()
    allow_host: Texts = ()
    tls_certfile: Path | None = None
    tls_keyfile: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"a port is a number from 0 to 65535, got {self.port}")
        if self.tls_keyfile is not None and self.tls_certfile is None:
            raise UsageError("--tls-keyfile needs --tls-certfile")
        for site in self.allow_origin:
            if not SITE.fullmatch(site):
                raise UsageError(f"a site is written as browsers do, https://example.org, got {site!r}")

    def keys(self) -> Keys:
        """The keys that are good; UsageError where none is and one is needed."""
        from arriero.server.auth import Keys, read_keys

        keys = read_keys(self.api_key_file, os.environ.get("ARRIERO_API_KEY"))
        admins = read_keys(self.admin_key_file, os.environ.get("ARRIERO_ADMIN_KEY"))
        if len(admins) > 1:
            raise UsageError(f"{self.admin_key_file} must hold one key, got {len(admins)}")
        if set(keys.values()) & set(admins.values()):
            raise UsageError("the administrator's key must not be among the others")
        if keys and self.no_api_key:
            raise UsageError("--no-api-key lets anybody in, but there are keys", hint="leave one of the two out")
        if not keys and not self.no_api_key and self.host not in LOOPBACK:
            raise UsageError(
                f"on {self.host} anybody who reaches this machine could use the model",
                hint="give --api-key-file, or --no-api-key if that is what you want",
            )
        return Keys(keys, next(iter(admins.values()), None))

    def warn(self) -> None:
        """Log what is allowed, but may not be meant."""
        for file in (self.api_key_file, self.admin_key_file):
            if file is not None and os.name == "posix" and stat.S_IMODE(file.stat().st_mode) & 0o077:
                log.warning("others on this machine may read %s; try: chmod 600 %s", file, file)
        if self.no_api_key and self.host not in LOOPBACK:
            log.warning("anyone who reaches %s can use the model", self.host)

    def hosts(self, *, open_to_all: bool) -> tuple[str, ...]:
        """The names the server answers to: those of loopback where nothing else keeps other sites' pages out."""
        if self.allow_host or (self.host in LOOPBACK and open_to_all):
            return ("localhost", "127.0.0.1", "[::1]", *(name.lower() for name in self.allow_host))
        return ()

    def origins(self, keys: Keys) -> tuple[str, ...]:
        """The sites whose pages may use it: also this machine's own where every program of it may do everything.

        Not where there is a key, the administrator's included: cookies know no ports, so a page of another one would
        come with its visitor's.
        """
        local = self.host in LOOPBACK and not (keys.required or keys.administered)
        return (*self.allow_origin, *(LOCAL if local else ()))

    def tls(self) -> tuple[Path, Path | None] | None:
        """The certificate and its key; UsageError where they cannot be used."""
        if self.tls_certfile is None:
            return None
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(self.tls_certfile, self.tls_keyfile)
        except OSError as error:  # an SSLError is one
            files = " with ".join(str(file) for file in (self.tls_certfile, self.tls_keyfile) if file is not None)
            raise UsageError(
                f"the certificate {files} cannot be used: {error}",
                hint="PEM files: the certificate chain, and its private key there or in --tls-keyfile",
            ) from error
        return self.tls_certfile, self.tls_keyfile


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class HandlingOptions:
    """How requests are handled.

    Parameters
    ----------
    log_prompts
        Write the bodies of requests to the log, prompts included.
    strict
        Refuse fields that OpenAI's API does not have, on its paths, instead of ignoring those that change no answer.
    no_store
        Keep no responses of /v1/responses, also for requests that ask for it, and take no files for batches.

    """

    log_prompts: bool = False
    strict: bool = False
    no_store: bool = False


MODEL = ServedOptions()
HANDLING = HandlingOptions()
ACCESS = AccessOptions()
LIMITS = Limits()
app = App(
    name="serve",
    help_epilogue=examples(
        "serve",
        "serve --adapter tomas=runs/llama-driver --adapter huanhuan=runs/huanhuan --port 8000",
        "serve --embedding all-minilm-l6-v2",
        "serve --ray auto --replicas 2 --host 0.0.0.0 --api-key-file keys.txt",
        "serve --host 0.0.0.0 --api-key-file keys.txt --tls-certfile server.pem",
    ),
)


@app.default
def serve(
    *,
    model: ServedOptions = MODEL,
    access: AccessOptions = ACCESS,
    limits: Annotated[Limits, Parameter(name="*")] = LIMITS,
    drain_seconds: float = 30.0,
    log_json: bool = False,
    handling: HandlingOptions = HANDLING,
) -> None:
    """Serve the HTTP API and the web page.

    POST / as in the self-llm tutorial, OpenAI's /v1 and the page are on one port, from one loaded model.

    Parameters
    ----------
    drain_seconds
        How long answers in flight may still take once the server receives a signal to end.
    log_json
        Write the log as one JSON object for each line.

    """
    start(model, access, limits, drain_seconds=drain_seconds, log_json=log_json, handling=handling)


def start(
    model: ServedOptions,
    access: AccessOptions,
    limits: Limits,
    *,
    drain_seconds: float,
    log_json: bool,
    handling: HandlingOptions,
    then: Callable[[str], None] = lambda _: None,
) -> None:
    """`serve`; `then` is called with the page's address once it answers."""
    from arriero.server import create_app
    from arriero.server.lifecycle import listen, run

    keys = access.keys()
    adapters = named(model.adapter)
    name = f"arriero-{socket.gethostname()}-{access.host}-{access.port}" if access.port else ""
    deployment = model.deployment(name, drain_seconds)
    hosts, origins = access.hosts(open_to_all=not keys.required), access.origins(keys)
    app = create_app(None, limits=limits, keys=keys, origins=origins, hosts=hosts, **asdict(handling))
    tls = access.tls()
    listener = listen(access.host, access.port)
    _log(as_json=log_json)
    tell = log.info if log_json else output.note  # then every line is JSON
    access.warn()
    show = mount_page(app, loopback=access.host in LOOPBACK)
    scheme = "https" if tls else "http"
    address = f"{scheme}://{f'[{access.host}]' if ':' in access.host else access.host}:{listener.getsockname()[1]}"

    def make() -> Models:
        models = _load(model, adapters, deployment)
        show(models)
        return models

    def opened(models: Models) -> None:
        tell(f"serving {', '.join(models)} at {address} (web page, POST /, /v1); Ctrl-C stops")
        then(address)

    tell(f"listening at {address}, loading the model")
    ended_by = run(app, listener, make, opened, tls=tls, drain_seconds=drain_seconds)
    if ended_by is not None:
        tell("stopped")
        signal.signal(ended_by, signal.SIG_DFL)
        signal.raise_signal(ended_by)  # whoever waits for this process learns that it was one


def _load(options: ServedOptions, adapters: dict[str, Path], deployment: Deployment | None) -> Models:
    """What the options name."""
    from arriero.chat import Loading
    from arriero.server.loading import load_models

    how: Loading = {
        "system": options.system,
        "template": options.template,
        "fold_system": options.fold_system,
        "chat_template": options.chat_template,
        "engine": options.engine,
        "precision": options.precision,
        "deterministic": options.deterministic,
        "cuda_graphs": options.cuda_graphs,
        "process": True,  # the process that serves never computes
    }
    if deployment is None:
        return load_models(options.model, adapters, options.embedding, how)
    from arriero.cluster.serving.deploy import load_replicas

    return load_models(options.model, adapters, options.embedding, how, partial(load_replicas, deployment))


def _log(*, as_json: bool) -> None:
    """Everything that is logged to standard error, in one form."""
    from arriero.server.access_log import LogFormat

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormat(as_json=as_json))
    logging.getLogger("arriero").handlers[:] = [handler]
    logging.getLogger("uvicorn").handlers[:] = [handler]
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
