"""From a model's name to a Chat whose engine is replicas on a Ray cluster.

Everything that can be found out before a model is loaded is: the cluster and its token, room for the replicas, the
model and the adapters on every node that could be given one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import arriero
from arriero import chat
from arriero.chat import Chat
from arriero.cluster.connect import LOCAL, Cluster, connect
from arriero.cluster.serving.protocol import AdapterFiles, Description, ModelFiles
from arriero.cluster.serving.replica import Replica
from arriero.cluster.serving.scale import Deployment, Scale, Share, share
from arriero.engines import Engine, EngineOptions, load_engine
from arriero.engines.registry import EngineName
from arriero.errors import ArrieroError, EngineError, UsageError
from arriero.loading import Loading, LoadPlan

if TYPE_CHECKING:
    from arriero.cluster.serving.engine import RayEngine

MARGIN_SECONDS = 5.0  # a replica outlives the answers that the server lets end
HEALTH_SECONDS = 2.0  # between questions; Serve replaces a replica after three bad answers
MAX_ONGOING = 256  # requests in one replica at once, as many as vLLM computes together; more wait in the handle
TARGET_ONGOING = 16.0  # with MIN:MAX, a replica is added where each has more on average
RELEASE_SECONDS = 5.0  # until Ray has counted as free what replicas of before had
LEFT_SECONDS = 60.0  # for replicas that were left to say what they are
ATTEMPTS = 2  # to load the model, before it is given up
log = logging.getLogger(__name__)


def load(
    model: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    ray: str | None = None,
    replicas: int | str = 1,
    gpus_per_replica: int | None = None,
    **settings: Unpack[Loading],
) -> Chat:
    """`arriero.chat.load`; with `ray` ("local", "auto" or HOST:PORT) the engine is that many replicas on the cluster.

    `replicas` is a number or "MIN:MAX". Each takes `gpus_per_replica` GPUs, by default one where the cluster has any.
    Raises as `arriero.chat.load` and `load_replicas`.
    """
    if ray is None:
        if replicas != 1 or gpus_per_replica is not None:
            raise UsageError("replicas run on a Ray cluster", hint='give ray="local", "auto" or HOST:PORT too')
        return chat.load(model, adapter=adapter, **settings)
    deployment = Deployment(ray, Scale.of(replicas, gpus_per_replica))
    return load_replicas(deployment, model, adapter=adapter, **settings)


def load_replicas(
    deployment: Deployment,
    model: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    **settings: Unpack[Loading],
) -> Chat:
    """A Chat over replicas; closing it ends them.

    Raises what `connect` raises; UsageError where the cluster has no room for them, NotFoundError and ContractError
    where a node lacks the model or an adapter or has another one, EngineError where a replica cannot load the model.
    """
    plan = LoadPlan.of(model, adapter, {**settings, "process": False})  # a replica is a process of its own
    most = deployment.scale.most
    cluster = connect(deployment.address, cpus=max(most, os.cpu_count() or 1) if deployment.address == LOCAL else None)
    try:
        engine = _start(cluster, deployment, plan)
    except BaseException:
        cluster.close()
        raise
    engine.when_closed(cluster.close)
    return chat.over(engine, plan.resolved)


def _start(cluster: Cluster, deployment: Deployment, plan: LoadPlan) -> RayEngine:
    size = share(deployment.scale, [(node.cpus, node.gpus) for node in cluster.nodes()])
    model = ModelFiles.of(plan.resolved.model_dir)
    check_nodes(cluster, size, [model, *map(AdapterFiles.of, plan.options.room_for)])
    stops = plan.resolved.renderer.stop_token_ids
    make = partial(load_here, model, stops, plan.engine, plan.options)
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
    cluster: Cluster, deployment: Deployment, size: Share, make: partial[Engine], stops: Sequence[int]
) -> RayEngine:
    """Have replicas run with the engine that `make` makes there; returns once they do. Closing the engine ends them.

    The connection to the cluster is the caller's. Raises EngineError where `make` fails, UsageError where others use
    what the replicas need.
    """
    from ray import serve

    from arriero.cluster.serving.engine import RayEngine

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(proxy_location="Disabled")  # the server's port is the only door
    made = (arriero.__version__, make.func.__qualname__, make.args, deployment.scale, size)
    mark = hashlib.sha256(repr(made).encode()).hexdigest()
    handle = _left(deployment.name, mark)
    if handle is None:
        _check_free(deployment.scale, size)
        application = serve.deployment(Replica, **_options(deployment, size)).bind(make, mark)
        try:
            handle = serve.run(application, name=deployment.name, route_prefix=None)
        except RuntimeError as error:
            text = _said(deployment.name) or str(error)
            _delete(deployment.name)
            raise _failed(text) from error

    end = partial(_delete, deployment.name)
    try:
        return RayEngine(handle, stops, check_adapter=lambda files: check_nodes(cluster, size, [files]), end=end)
    except BaseException:
        _delete(deployment.name)
        raise


def _check_free(scale: Scale, size: Share) -> None:
    """Raise UsageError where others use what the replicas need; Serve would wait for it, for ever."""
    import ray

    ends = time.monotonic() + RELEASE_SECONDS
    while True:
        free = ray.available_resources()
        cpus, gpus = free.get("CPU", 0.0), free.get("GPU", 0.0)
        if cpus >= scale.least * size.cpus and gpus >= scale.least * size.gpus:
            return
        if time.monotonic() > ends:
            break
        time.sleep(0.2)
    raise UsageError(
        f"{scale.least} replicas take {size.cpus} CPUs and {size.gpus} GPUs each, "
        f"and {cpus:g} CPUs and {gpus:g} GPUs are free",
        hint="arriero doctor --ray says what runs there; serve shutdown ends all replicas of the cluster",
    )


def _options(deployment: Deployment, size: Share) -> dict[str, Any]:
    """Those of the deployment. All is set once: every change would restart all replicas."""
    scale = deployment.scale
    autoscaling = {
        "min_replicas": scale.least,
        "max_replicas": scale.most,
        "target_ongoing_requests": TARGET_ONGOING,
        "downscale_delay_s": deployment.downscale_seconds,
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
    """The handle of replicas of that name that are the same as would be started, None where there are none.

    Others of that name are ended. DEPLOYING and UNHEALTHY are also said while one of them is replaced.
    """
    from ray import serve

    there = serve.status().applications.get(name)
    if there is None:
        return None
    if there.status in ("RUNNING", "DEPLOYING", "UNHEALTHY"):
        handle = serve.get_app_handle(name)
        with contextlib.suppress(TimeoutError):
            said: Description = handle.describe.remote().result(timeout_s=LEFT_SECONDS)
            if said.mark == mark:
                log.info("the replicas %s run already", name)
                return handle
    _delete(name)
    return None


def _delete(name: str) -> None:
    import ray
    from ray import serve

    if ray.is_initialized():  # else serve would start a cluster to look for it
        serve.delete(name)


def _said(name: str) -> str:
    """What Serve says of the deployment, with a replica's traceback where one has raised."""
    from ray import serve

    there = serve.status().applications.get(name)
    return "\n".join(each.message for each in there.deployments.values()) if there is not None else ""


def _failed(text: str) -> ArrieroError:
    """What a replica raised when it was made, out of the traceback that Serve tells."""
    raised = re.findall(r"arriero\.errors\.\w+: (.*)$", text, re.MULTILINE) or text.strip().splitlines()
    return EngineError(f"a replica cannot load the model: {raised[-1]}", hint="Ray's logs on that node say more")
