"""From a model's name to a Chat whose engine is replicas on a Ray cluster.

Everything that can be found out before a model is loaded is: the cluster and its token, room for the replicas, the
model and the adapters on every node that could be given one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import arriero
from arriero import chat
from arriero.chat import Chat
from arriero.cluster.answering.replica import Replica
from arriero.cluster.answering.scale import Scale, Share, share
from arriero.cluster.answering.wire import AdapterFiles, Description, ModelFiles
from arriero.cluster.connect import LOCAL, Cluster, connect
from arriero.engines import Engine, EngineOptions, load_engine
from arriero.engines.base import Precision
from arriero.engines.registry import EngineName
from arriero.errors import ArrieroError, EngineError, UsageError
from arriero.prompt import Bound, bind

DRAIN_SECONDS = 30.0
MARGIN_SECONDS = 5.0  # a replica outlives the answers that the server lets end
HEALTH_SECONDS = 2.0  # between questions; Serve replaces a replica after three bad answers
MAX_ONGOING = 256  # requests in one replica at once, as many as vLLM computes together; more wait in the handle
TARGET_ONGOING = 16.0  # with MIN:MAX, a replica is added where each has more on average
ATTEMPTS = 2  # to load the model, before it is given up
log = logging.getLogger(__name__)


class EngineChoice(TypedDict, total=False):
    """What computes, as in `arriero.chat.load`."""

    engine: EngineName
    precision: Precision
    deterministic: bool
    room_for: Sequence[Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Where replicas run and how many; `name` is the application's in Ray Serve.

    Replicas of that name which a server left that did not end well are taken over where they are the same.
    """

    address: str
    scale: Scale
    name: str = field(default_factory=lambda: f"arriero-{uuid.uuid4().hex[:8]}")
    drain_seconds: float = DRAIN_SECONDS


def load(
    model: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    system: str | None = None,
    ray: str | None = None,
    replicas: int | str = 1,
    gpus_per_replica: int | None = None,
    **choice: Unpack[EngineChoice],
) -> Chat:
    """`arriero.chat.load`; with `ray` ("local", "auto" or HOST:PORT) the engine is that many replicas on the cluster.

    `replicas` is a number or "MIN:MAX". Each takes `gpus_per_replica` GPUs, by default one where the cluster has any.
    Raises as `arriero.chat.load` and `load_replicas`.
    """
    if ray is None:
        if replicas != 1 or gpus_per_replica is not None:
            raise UsageError("replicas run on a Ray cluster", hint='give ray="local", "auto" or HOST:PORT too')
        return chat.load(model, adapter=adapter, system=system, **choice)
    deployment = Deployment(address=ray, scale=Scale.of(replicas, gpus_per_replica))
    return load_replicas(deployment, model, adapter=adapter, system=system, **choice)


def load_replicas(
    deployment: Deployment,
    model: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    system: str | None = None,
    **choice: Unpack[EngineChoice],
) -> Chat:
    """A Chat over replicas; closing it ends them.

    Raises what `connect` raises; UsageError where the cluster has no room for them, NotFoundError and ContractError
    where a node lacks the model or an adapter or has another one, EngineError where a replica cannot load the model.
    """
    found = bind(model, adapter, system=system)
    most = deployment.scale.most
    cluster = connect(deployment.address, cpus=max(most, os.cpu_count() or 1) if deployment.address == LOCAL else None)
    try:
        engine = _start(cluster, deployment, found, choice)
    except BaseException:
        cluster.close()
        raise
    return chat.over(engine, found)


def _start(cluster: Cluster, deployment: Deployment, found: Bound, choice: EngineChoice) -> Engine:
    adapters = [*([found.adapter_dir] if found.adapter_dir is not None else ()), *choice.get("room_for", ())]
    size = share(deployment.scale, [(node.cpus, node.gpus) for node in cluster.nodes()])
    model = ModelFiles.of(found.model_dir)
    check_nodes(cluster, size, [model, *map(AdapterFiles.of, adapters)])
    options = EngineOptions(
        precision=choice.get("precision", "auto"), deterministic=choice.get("deterministic", False), room_for=adapters
    )
    stops = found.renderer.stop_token_ids
    make = partial(load_here, model, stops, choice.get("engine", "auto"), options)
    return deploy(cluster, deployment, size, make, stops)


def check_nodes(cluster: Cluster, size: Share, files: Sequence[ModelFiles | AdapterFiles]) -> None:
    """Raise, with the node's address, where one that could be given a replica lacks any of the files."""
    for node, fault in cluster.each(_missing, files, cpus=size.cpus, gpus=size.gpus):
        if fault is not None:
            raise type(fault)(f"on the node {node['NodeManagerAddress']}: {fault.message}", hint=fault.hint)


def _missing(files: Sequence[ModelFiles | AdapterFiles]) -> ArrieroError | None:
    """On a node: what is wrong with the first of the files that is not as it should be."""
    for each in files:
        try:
            each.find()
        except ArrieroError as error:
            return error
    return None


def load_here(model: ModelFiles, stops: Sequence[int], engine: EngineName, options: EngineOptions) -> Engine:
    """In a replica: the engine, with the model as this node has it."""
    return load_engine(model.find(), stops, engine, options)


def deploy(
    cluster: Cluster, deployment: Deployment, size: Share, make: Callable[[], Engine], stops: Sequence[int]
) -> Engine:
    """Have replicas run with the engine that `make` makes there; returns once they do. Closing the engine ends them.

    Raises EngineError where `make` fails.
    """
    from ray import serve

    from arriero.cluster.answering.engine import RayEngine

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(proxy_location="Disabled")  # the server's port is the only door
    mark = hashlib.sha256(repr((arriero.__version__, make, deployment.scale, size)).encode()).hexdigest()
    handle = _left(deployment.name, mark)
    if handle is None:
        application = serve.deployment(Replica, **_options(deployment, size)).bind(make, mark)
        try:
            handle = serve.run(application, name=deployment.name, route_prefix=None)
        except RuntimeError as error:
            _delete(deployment.name)
            raise _failed(str(error)) from error

    def end() -> None:
        _delete(deployment.name)
        cluster.close()

    try:
        return RayEngine(handle, stops, check_adapter=lambda files: check_nodes(cluster, size, [files]), end=end)
    except BaseException:
        _delete(deployment.name)
        raise


def _options(deployment: Deployment, size: Share) -> dict[str, Any]:
    """Those of the deployment. All is set once: every change would restart all replicas."""
    scale = deployment.scale
    autoscaling = {
        "min_replicas": scale.least,
        "max_replicas": scale.most,
        "target_ongoing_requests": TARGET_ONGOING,
    }
    return {
        "name": "replica",
        **({"num_replicas": scale.most} if scale.least == scale.most else {"autoscaling_config": autoscaling}),
        "ray_actor_options": {"num_cpus": size.cpus, "num_gpus": size.gpus},
        "max_ongoing_requests": MAX_ONGOING,
        "graceful_shutdown_timeout_s": deployment.drain_seconds + MARGIN_SECONDS,
        "graceful_shutdown_wait_loop_s": 0.2,
        "health_check_period_s": HEALTH_SECONDS,
        "max_constructor_retry_count": ATTEMPTS,
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
    }


def _left(name: str, mark: str) -> Any:
    """The handle of replicas of that name that run and are the same as would be started, None where there are none."""
    from ray import serve

    there = serve.status().applications.get(name)
    if there is None or there.status != "RUNNING":
        return None
    handle = serve.get_app_handle(name)
    said: Description = handle.describe.remote().result()
    if said.mark != mark:
        return None
    log.info("the replicas %s run already", name)
    return handle


def _delete(name: str) -> None:
    from ray import serve

    serve.delete(name)


def _failed(text: str) -> ArrieroError:
    """What a replica raised when it was made, out of the traceback that Serve tells."""
    raised = re.findall(r"^arriero\.errors\.\w+: (.*)$", text, re.MULTILINE) or [text.strip().splitlines()[-1]]
    return EngineError(f"a replica cannot load the model: {raised[-1]}", hint="Ray's logs on that node say more")
