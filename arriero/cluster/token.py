"""The token without which no Ray cluster is used: from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

Ray reads from the environment that it is to ask for one when it is first imported: `import ray` comes after
`authenticate`, in functions. (https://docs.ray.io/en/latest/ray-security/token-auth.html)
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from pathlib import Path

from arriero.cluster.compat import reread_environment
from arriero.errors import AccessError

GENERATE = "ray get-auth-token --generate && chmod 600 ~/.ray/auth_token"
HANDLER = "RAY_DISABLE_FAILURE_SIGNAL_HANDLER"
log = logging.getLogger(__name__)


def authenticate(*, make: bool) -> None:
    """Have Ray ask for a token, and see that there is one; with `make` one is made up where there is none.

    Raises AccessError where there is none, or where Ray was told to ask for none.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        raise AccessError(
            f"RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']}: anybody who reaches a Ray port could run code",
            hint="export RAY_AUTH_MODE=token",
        )
    file = token_file()
    if os.environ.get("RAY_AUTH_TOKEN"):
        pass  # it overrides the file
    elif file is not None:
        keep_private(file)
    elif make:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # for the processes that this one starts
    else:
        raise AccessError(
            "this machine has no token for a Ray cluster, and one that asks for none is not used",
            hint=f"{GENERATE}; the same file on every node",
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # or what is left of Serve starts a cluster to report to
    os.environ["RAY_AUTH_MODE"] = "token"
    reread_environment()


def import_ray() -> None:
    """Import ray without its handler of signals: SIGTERM would end this process, which may have to drain, at once.

    The processes of a local cluster inherit the environment, and keep the handler: their crashes leave a trace.
    """
    given = HANDLER in os.environ
    os.environ.setdefault(HANDLER, "1")
    import ray  # noqa: F401  it reads the variable now

    if not given:
        del os.environ[HANDLER]


def keep_private(file: Path) -> None:
    """Take the token from other users of this machine, for ray writes it readable; a warning where that fails."""
    if os.name == "posix" and stat.S_IMODE(file.stat().st_mode) & 0o077:
        try:
            file.chmod(0o600)
            log.info("%s could be read by others on this machine; now it cannot", file)
        except OSError:
            log.warning("others on this machine may read %s; try: chmod 600 %s", file, file)


def token_file() -> Path | None:
    """The file with the token that Ray would use, None where there is none."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").expanduser()
    return file if file.is_file() and file.stat().st_size else None
