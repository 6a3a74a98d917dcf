"""From a model's name to a Chat whose engine is replicas on a Ray cluster.

Everything that can be found out before a model is loaded is: the cluster and its token, room for the replicas, the
model and the adapters on every node that could be given one.
"""

from __future__ import annotations

import contextlib
import copy
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
from arriero.cluster.serving.scale import Deployment, Resources, Scale, resources_per_replica
from arriero.engines import Engine, EngineOptions, announce_difference, load_engine
from arriero.engines.registry import EngineName
from arriero.errors import ArrieroError, EngineError, UsageError
from arriero.loading import Loading, LoadPlan

if TYPE_CHECKING:
    from arriero.cluster.serving.engine import RayEngine

MARGIN_SECONDS = 5.0  # a replica outlives the answers that the server lets end
HEALTH_SECONDS = 2.0  # between questions; Serve replaces a replica after three bad answers
MAX_ONGOING = 256  # requests in one replica at once, as many as vLLM computes together; more wait in the handle
TARGET_ONGOING = 16.0  # with MIN:MAX, a replica is added where each has more on average
RELEASE_SECONDS = 5.0  # until Ray counts as free what earlier replicas had
DESCRIBE_SECONDS = 60.0  # for replicas of an earlier server to answer
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
    cpus = max(deployment.scale.max_replicas, os.cpu_count() or 1) if deployment.address == LOCAL else None
    cluster = connect(deployment.address, cpus=cpus)
    try:
        engine = _start(cluster, deployment, plan)
    except BaseException:
        cluster.close()
        raise
    engine.when_closed(cluster.close)
    announce_difference(engine, plan.resolved.adapter_dir)
    return chat.over(engine, plan.resolved)


def _start(cluster: Cluster, deployment: Deployment, plan: LoadPlan) -> RayEngine:
    resources = resources_per_replica(deployment.scale, [(node.cpus, node.gpus) for node in cluster.nodes()])
    model = ModelFiles.of(plan.resolved.model_dir)
    check_nodes(cluster, resources, [model, *map(AdapterFiles.of, plan.options.room_for)])
    stops = plan.resolved.renderer.stop_token_ids
    make_engine = partial(load_here, model, stops, plan.engine, plan.options)
    return deploy(cluster, deployment, resources, make_engine, stops)


def check_nodes(cluster: Cluster, resources: Resources, files: Sequence[ModelFiles | AdapterFiles]) -> None:
    """Raise, with the node's address, where one that could be given a replica lacks any of the files."""
    for node, fault in cluster.on_every_node(_missing, files, cpus=resources.cpus, gpus=resources.gpus):
        if fault is not None:
            raise type(fault)(f"on the node {node['NodeManagerAddress']}: {fault.message}", hint=fault.hint)


def _check_adapter(cluster: Cluster, resources: Resources, files: AdapterFiles) -> None:
    check_nodes(cluster, resources, [files])


def _missing(files: Sequence[ModelFiles | AdapterFiles]) -> ArrieroError | None:
    """On a node: what is wrong with the first of the files that is not as it should be."""
    for described in files:
        try:
            described.find()
        except ArrieroError as error:
            return error
    return None


def load_here(model: ModelFiles, stops: Sequence[int], engine: EngineName, options: EngineOptions) -> Engine:
    """In a replica: the engine, with the model as this node has it."""
    return load_engine(model.find(), stops, engine, options)


def deploy(
    cluster: Cluster, deployment: Deployment, resources: Resources, make_engine: partial[Engine], stops: Sequence[int]
) -> RayEngine:
    """Run replicas with the engine that `make_engine` makes there; returns once they do. Closing the engine ends them.

    Its handle is a copy: Serve gives the same one for a name again and again, also after it was shut down, and then
    it reports no requests to the autoscaling any more.

    The connection to the cluster is the caller's. Raises EngineError where `make_engine` fails, UsageError where others
    use what the replicas need.
    """
    from ray import serve

    from arriero.cluster.serving.engine import RayEngine

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(proxy_location="Disabled")  # the server's port is the only door
    config = (arriero.__version__, make_engine.func.__qualname__, make_engine.args, deployment.scale, resources)
    config_hash = hashlib.sha256(repr(config).encode()).hexdigest()
    handle = _running_handle(deployment.name, config_hash)
    if handle is None:
        _check_free(deployment.scale, resources)
        application = serve.deployment(Replica, **_options(deployment, resources)).bind(make_engine, config_hash)
        try:
            handle = copy.copy(serve.run(application, name=deployment.name, route_prefix=None))
        except RuntimeError as error:
            message = _status_message(deployment.name) or str(error)
            _delete(deployment.name)
            raise _load_error(message) from error
    end = partial(_delete, deployment.name)
    check = partial(_check_adapter, cluster, resources)
    try:
        return RayEngine(handle, stops, check_adapter=check, end=end, interval=deployment.chunk_seconds)
    except BaseException:
        _delete(deployment.name)
        raise


def _check_free(scale: Scale, resources: Resources) -> None:
    """Raise UsageError where others use what the replicas need; Serve would wait for it, for ever."""
    import ray

    deadline = time.monotonic() + RELEASE_SECONDS
    while True:
        free = ray.available_resources()
        cpus, gpus = free.get("CPU", 0.0), free.get("GPU", 0.0)
        if cpus >= scale.min_replicas * resources.cpus and gpus >= scale.min_replicas * resources.gpus:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    raise UsageError(
        f"{scale.min_replicas} replicas take {resources.cpus} CPUs and {resources.gpus} GPUs each, "
        f"and {cpus:g} CPUs and {gpus:g} GPUs are free",
        hint="arriero doctor --ray says what runs there; serve shutdown ends all replicas of the cluster",
    )


def _options(deployment: Deployment, resources: Resources) -> dict[str, Any]:
    """Of Serve's deployment. All are set once: every change would restart all replicas."""
    scale = deployment.scale
    autoscaling = {
        "min_replicas": scale.min_replicas,
        "max_replicas": scale.max_replicas,
        "target_ongoing_requests": TARGET_ONGOING,
        "downscale_delay_s": deployment.downscale_seconds,
    }
    return {
        "name": "replica",
        **({"num_replicas": scale.max_replicas} if scale.fixed else {"autoscaling_config": autoscaling}),
        "ray_actor_options": {"num_cpus": resources.cpus, "num_gpus": resources.gpus},
        "max_ongoing_requests": MAX_ONGOING,
        "graceful_shutdown_timeout_s": deployment.drain_seconds + MARGIN_SECONDS,
        "graceful_shutdown_wait_loop_s": 0.2,
        "health_check_period_s": HEALTH_SECONDS,
        "max_constructor_retry_count": ATTEMPTS,
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
    }


def _running_handle(name: str, config_hash: str) -> Any:
    """The handle of replicas of that name that are the same as would be started, None where there are none.

    Others of that name are deleted. DEPLOYING and UNHEALTHY are also said while one of them is replaced.
    """
    from ray import serve

    application = serve.status().applications.get(name)
    if application is None:
        return None
    if application.status in ("RUNNING", "DEPLOYING", "UNHEALTHY"):
        handle = copy.copy(serve.get_app_handle(name))
        with contextlib.suppress(TimeoutError):
            description: Description = handle.describe.remote().result(timeout_s=DESCRIBE_SECONDS)
            if description.config_hash == config_hash:
                log.info("the replicas %s run already", name)
                return handle
        handle.shutdown()
    _delete(name)
    return None


def _delete(name: str) -> None:
    import ray
    from ray import serve

    if ray.is_initialized():  # else serve would start a cluster to look for it
        serve.delete(name)


def _status_message(name: str) -> str:
    """What Serve says of the deployment, with a replica's traceback where one has raised."""
    from ray import serve

    application = serve.status().applications.get(name)
    return "\n".join(status.message for status in application.deployments.values()) if application is not None else ""


def _load_error(message: str) -> ArrieroError:
    """What a replica raised when it was made, out of the traceback in Serve's message."""
    reasons = re.findall(r"arriero\.errors\.\w+: (.*)$", message, re.MULTILINE) or message.strip().splitlines()
    return EngineError(f"a replica cannot load the model: {reasons[-1]}", hint="Ray's logs on that node say more")
