"""Into a Ray cluster and out of it again: the token, what the nodes have, and Ray's errors as ours.

    with connect("auto") as cluster, own_errors():
        cluster.nodes(["/nfs/model"])     # what each has: CPUs, GPUs, versions, which of the paths it lacks
        ray.get(...)                      # what is raised over there arrives as it was raised

Whoever reaches a Ray port runs code (https://docs.ray.io/en/latest/ray-security), so a cluster is used only where it
asks for a token, see token.py. A driver with a token also joins a cluster that asks for none; only the nodes can tell.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from arriero.cluster.token import GENERATE, authenticate, import_ray
from arriero.errors import AccessError, ArrieroError, NotFoundError, UsageError

LOCAL = "local"
AUTO = "auto"
REACH_SECONDS = 5.0
NODE_SECONDS = 120.0  # a node's first worker imports ray from a disk that others use too
SAME = ("python", "ray", "arriero")  # what must be of one version everywhere
COMPARED = (*SAME, "torch", "transformers")  # answers may differ where the last two do
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster, as it says itself.

    `versions` are those of COMPARED, None for a package that is not installed; `missing` are the paths it lacks.
    """

    address: str
    cpus: float
    gpus: float
    token: bool
    versions: Mapping[str, str | None]
    missing: tuple[str, ...] = ()


class Cluster:
    """A connection. `close` ends it, and with "local" the cluster too; what the caller had opened before stays."""

    def __init__(self, address: str, end: threading.Event | None) -> None:
        """`end` ends the connection when it is set, None for one that is the caller's."""
        self.address = address
        self._end = end

    @property
    def ours(self) -> bool:
        """Whether `close` ends the connection."""
        return self._end is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave; may be called again."""
        if self._end is not None:
            import ray

            ray.shutdown()
            self._end.set()
            self._end = None

    def nodes(self, paths: Iterable[str | Path] = ()) -> list[Node]:
        """All nodes that are alive, as they answer themselves."""
        answers = self.on_every_node(_node_facts(), COMPARED, [str(path) for path in paths])
        return [Node(node["NodeManagerAddress"], *_sizes(node), **facts) for node, facts in answers]

    def on_every_node(
        self, function: Any, *arguments: Any, cpus: float = 0, gpus: float = 0
    ) -> list[tuple[Mapping[str, Any], Any]]:
        """What `function` returns on every node with at least these CPUs and GPUs, beside what Ray says of the node.

        Raises what it raises; ArrieroError where a node runs no task.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = ray.remote(num_cpus=0, max_retries=0)(function)
        alive = [node for node in ray.nodes() if node["Alive"]]
        alive = [node for node in alive if _sizes(node)[0] >= cpus and _sizes(node)[1] >= gpus]
        strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in alive]
        answers = [task.options(scheduling_strategy=strategy).remote(*arguments) for strategy in strategies]
        return [(node, _answer(node, answer)) for node, answer in zip(alive, answers, strict=True)]


def connect(address: str, *, cpus: int | None = None, log_to_driver: bool = False) -> Cluster:
    """Join the cluster at `address`: HOST:PORT, "auto" for the one this machine belongs to, or "local".

    "local" starts one on this machine alone, with `cpus` logical CPUs where given. A connection that this process has
    already is used. Raises AccessError without a token or where the cluster asks for none, NotFoundError where there
    is no cluster, ArrieroError where its nodes have other versions of Ray, Python or Arriero.
    """
    cluster = join(address, cpus=cpus, log_to_driver=log_to_driver)
    try:
        if address != LOCAL or not cluster.ours:
            for fault in faults(cluster.nodes()):
                raise fault
    except BaseException:
        cluster.close()
        raise
    return cluster


def join(address: str, *, cpus: int | None = None, log_to_driver: bool = False) -> Cluster:
    """`connect` without looking at the nodes."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("ray is not installed", hint='pip install "arriero[ray]"')
    authenticate(make=address == LOCAL)
    _check_address(address)
    import_ray()
    import ray

    if ray.is_initialized():
        return Cluster(address, None)
    local = {"num_cpus": cpus, "include_dashboard": False} if address == LOCAL else {}
    start = functools.partial(ray.init, address, log_to_driver=log_to_driver, logging_level=logging.ERROR, **local)
    try:
        return Cluster(address, _hold(start))
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _refused(address, error) from error


def _hold(start: Callable[[], object]) -> threading.Event:
    """Call `start` in a thread that stays until the event is set; raises what it raises.

    The processes of a local cluster die with the thread that started them (prctl(2), PR_SET_PDEATHSIG).
    """
    started: Future[object] = Future()
    end = threading.Event()

    def work() -> None:
        try:
            started.set_result(start())
        except BaseException as error:  # raised in the thread that waits for it
            started.set_exception(error)
        else:
            end.wait()

    threading.Thread(target=work, name="ray", daemon=True).start()
    started.result()
    return end


def faults(nodes: Sequence[Node]) -> list[ArrieroError]:
    """What keeps these nodes from being used together, each with the command that mends it."""
    errors: list[ArrieroError] = []
    if exposed := [node.address for node in nodes if not node.token]:
        errors.append(
            AccessError(
                "the Ray cluster takes work from anybody who reaches it: no token is asked for on "
                f"{', '.join(exposed)}",
                hint=f"on every node: ray stop; {GENERATE} (one token for all); RAY_AUTH_MODE=token ray start …",
            )
        )
    own = {name: _version(name) for name in COMPARED}
    for node in nodes:
        for name in SAME:
            if node.versions[name] != own[name]:
                what = f"{name} is {own[name]} here, but {node.versions[name] or 'not installed'} on {node.address}"
                hint = "one Python everywhere" if name == "python" else f'there: pip install "{name}=={own[name]}"'
                errors.append(ArrieroError(what, hint=hint))
        for name in COMPARED[len(SAME) :]:
            if node.versions[name] != own[name]:
                log.warning("%s is %s here and %s on %s", name, own[name], node.versions[name], node.address)
    return errors


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """What a task or an actor raised, as it raised it, instead of Ray's wrapper; Ray's own errors as ArrieroError."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        raise unwrapped(error) from error


def unwrapped(error: Exception) -> Exception:
    """The error that Ray's `error` wraps; an ArrieroError that quotes it where it is one of Ray's own."""
    from ray.exceptions import RayError, RayTaskError

    while isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    return ArrieroError(f"Ray failed: {_brief(error)}") if isinstance(error, RayError) else error


def _check_address(address: str) -> None:
    """See that somebody listens: ray itself would try for minutes."""
    if address in (LOCAL, AUTO):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in host:
        raise UsageError(
            f'a Ray cluster is given as local, auto or HOST:PORT, got "{address}"',
            hint="on a machine that has joined the cluster: --ray auto",
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise _none_there(address, f": {error}") from error


def _none_there(address: str, why: str) -> NotFoundError:
    what = "this machine belongs to no Ray cluster" if address == AUTO else f"no Ray cluster answers at {address}{why}"
    start = "ray start --head --node-ip-address=ADDRESS --port=6379 --dashboard-host=127.0.0.1"
    return NotFoundError(what, hint=f"RAY_AUTH_MODE=token {start}; on another node: ray start --address=ADDRESS:6379")


def _refused(address: str, error: Exception) -> ArrieroError:
    """Why ray.init failed: ray says little where a token is not the cluster's."""
    text = _brief(error)
    if "any running Ray instance" in text:
        return _none_there(address, "")
    if isinstance(error, ConnectionError):
        return AccessError(
            f"Ray at {address} did not take this machine's token, or is none ({text})",
            hint="copy ~/.ray/auth_token from the head node; ray status says whether it fits",
        )
    hint = "install the cluster's versions here" if "ersion mismatch" in text else "ray status; ray start --address=…"
    return ArrieroError(f"cannot join the Ray cluster at {address}: {text}", hint=hint)


def _brief(error: Exception) -> str:
    """An error's text on one line, without a remote traceback."""
    return " ".join(str(error).split("Traceback")[0].split())[:500]


def _answer(node: Mapping[str, Any], answer: Any) -> Any:
    import ray

    try:
        return ray.get(answer, timeout=NODE_SECONDS)
    except ray.exceptions.RayTaskError as error:
        raise unwrapped(error) from error
    except ray.exceptions.RayError as error:
        where = node["NodeManagerAddress"]
        raise ArrieroError(f"the node {where} runs no task: {_brief(error)}", hint="ray status") from error


def _sizes(node: Mapping[str, Any]) -> tuple[float, float]:
    """CPUs and GPUs."""
    return node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0)


def _version(name: str) -> str | None:
    version: str | None = _node_facts()((name,), ())["versions"][name]
    return version


def _node_facts() -> Any:
    """The function that runs on a node. Ray sends a nested one by value: the node may lack Arriero."""

    def facts(names: Sequence[str], paths: Sequence[str]) -> dict[str, Any]:
        import importlib.metadata
        import os
        import platform

        def version(name: str) -> str | None:
            try:
                return importlib.metadata.version(name).partition("+")[0]  # +cpu and +cu130 are of one version
            except importlib.metadata.PackageNotFoundError:
                return None

        return {
            "token": os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
            "versions": {name: platform.python_version() if name == "python" else version(name) for name in names},
            "missing": tuple(path for path in paths if not os.path.exists(path)),  # noqa: PTH110  not imported there
        }

    return facts
