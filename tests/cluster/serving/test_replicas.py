"""A real Ray cluster on this machine, with an engine of which every id can be told beforehand."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psutil
import pytest

from arriero.chat import Chat, load
from arriero.cluster.connect import connect
from arriero.cluster.serving import deploy as deploying
from arriero.cluster.serving.deploy import check_nodes, deploy, load_replicas
from arriero.cluster.serving.protocol import ModelFiles
from arriero.cluster.serving.scale import Deployment, Resources, Scale
from arriero.errors import EngineError, EngineLostError, NotFoundError, UsageError
from arriero.messages import Sampling
from tests.cluster.scripted import CRASH, DIE, FAIL, STOP, PacedEngine, expected

pytest.importorskip("ray")
from ray import serve

pytestmark = [pytest.mark.slow, pytest.mark.timeout(250)]
GREEDY = Sampling(
    temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0
)
NAME = "arriero-test"
SIZE = Resources(1, 0)


@pytest.fixture(scope="module")
def cluster(own_clusters):
    with connect("local", cpus=6) as made:
        yield made


@pytest.fixture(scope="module")
def engine(cluster):
    """Two replicas that give an id every 20 ms."""
    made = deploy(cluster, Deployment("local", Scale.of(2), NAME), SIZE, partial(PacedEngine, 0.02), [STOP])
    yield made
    made.close()


def replicas(name: str = NAME) -> list[psutil.Process]:
    """The processes of this test's replicas, by their parents: other clusters on this machine are none of its."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if f"ServeReplica:{name}:" in " ".join(process.cmdline()):
                found.append(process)
    return found


def running(name: str) -> int:
    """The replicas that Serve sends requests to."""
    states = serve.status().applications[name].deployments["replica"].replica_states
    return states.get("RUNNING", 0)


def wait_for(what) -> None:
    ends = time.monotonic() + 60
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_streams_come_whole_from_both_replicas(engine):
    prompts = [[7, number] for number in range(10, 26)]
    generations = [engine.submit(prompt, GREEDY, max_new_tokens=30, logprobs=0) for prompt in prompts]
    for prompt, generation in zip(prompts, generations, strict=True):
        assert list(generation) == expected(prompt, 30)
        assert generation.finish_reason == "length"
        assert [token.token_id for token in generation.logprobs] == expected(prompt, 30)


def test_what_the_engine_over_there_refuses_is_raised_as_it_was(engine):
    with pytest.raises(UsageError, match="this prompt is refused") as refused:
        list(engine.submit([FAIL], GREEDY, max_new_tokens=3))
    assert refused.value.hint == "another one"


@pytest.mark.parametrize("kill", ["process", "engine"])
def test_where_a_replica_dies_all_streams_go_on_and_there_are_two_again(engine, kill):
    """kill -9 of a replica with streams in flight; and an engine that dies and takes its replica with it."""
    wait_for(lambda: len(replicas()) == 2)
    before = {process.pid for process in replicas()}
    prompts = [[8, number] for number in range(10, 18)]
    generations = [engine.submit(prompt, GREEDY, max_new_tokens=100) for prompt in prompts]
    wait_for(lambda: all(generation.completion_tokens for generation in generations))
    victim = replicas()[0]
    if kill == "process":
        victim.kill()
    else:
        wait_for(lambda: list(engine.submit([DIE, victim.pid], GREEDY, max_new_tokens=1)) and not victim.is_running())
    for prompt, generation in zip(prompts, generations, strict=True):
        assert list(generation) == expected(prompt, 100)
    wait_for(lambda: len(replicas()) == 2 and {process.pid for process in replicas()} != before)


def test_a_request_that_kills_whoever_takes_it_fails_after_four(engine):
    with pytest.raises(EngineLostError, match="4 replicas were lost"):
        list(engine.submit([CRASH], GREEDY, max_new_tokens=3))
    wait_for(lambda: len(replicas()) == 2)


def test_an_adapter_is_loaded_by_every_replica_that_is_asked_for_it_also_by_a_new_one(engine, tmp_path):
    def adapter(shift: int):
        directory = tmp_path / str(shift)
        directory.mkdir()
        (directory / "adapter_config.json").write_text(json.dumps({"shift": shift}))
        (directory / "adapter_model.safetensors").write_bytes(b"")
        return engine.load_adapter(directory)

    one, other = adapter(3), adapter(5)
    with pytest.raises(EngineError, match="shifts forwards"):
        adapter(-1)
    with pytest.raises(NotFoundError):
        engine.load_adapter(tmp_path / "absent")
    for killed in (False, True):
        if killed:
            replicas()[0].kill()
        for shift, handle in ((3, one), (0, None), (5, other)) * 4:
            assert list(engine.submit([9, 9], GREEDY, max_new_tokens=4, adapter=handle)) == expected([9, 9], 4, shift)


def test_replicas_that_a_killed_server_left_are_taken_over(cluster, engine):
    """A second engine of the same name over the same: nothing is started again, also where one is just replaced."""
    wait_for(lambda: len(replicas()) == 2)
    before = {process.pid for process in replicas()}
    again = deploy(cluster, Deployment("local", Scale.of(2), NAME), SIZE, partial(PacedEngine, 0.02), [STOP])
    assert list(again.submit([7, 7], GREEDY, max_new_tokens=3)) == expected([7, 7], 3)
    assert {process.pid for process in replicas()} == before


def broken() -> PacedEngine:
    raise EngineError("no such precision")


def test_a_model_that_a_replica_cannot_load_is_told_by_its_own_words(cluster, engine):
    with pytest.raises(EngineError, match="a replica cannot load the model: no such precision"):
        deploy(cluster, Deployment("local", Scale.of(1)), SIZE, partial(broken), [STOP])


def test_a_real_model_and_a_real_adapter_answer_as_without_ray_also_after_a_kill(cluster, model_dir, trained_adapter):
    choice = {"adapter": trained_adapter, "engine": "transformers", "precision": "float32"}
    questions = [[{"role": "user", "content": text}] for text in ("Who are you?", "What do you eat?")]
    sampling = Sampling(temperature=0.0, max_new_tokens=12)

    def answers(chat: Chat) -> list[str]:
        base = chat.with_adapter(None)
        return [each.complete(question, sampling).text for each in (chat, base) for question in questions]

    with contextlib.closing(load(model_dir, **choice)) as direct:
        wanted = answers(direct)
    assert len(set(wanted)) > 2, "the adapter must make a difference"
    there = load_replicas(Deployment("local", Scale(2, 3), "arriero-real"), model_dir, **choice)
    with contextlib.closing(there):
        assert [answers(there) for _ in range(3)] == [wanted] * 3
        replicas("arriero-real")[0].kill()
        assert [answers(there) for _ in range(3)] == [wanted] * 3


def test_what_others_have_taken_is_told_instead_of_waited_for(cluster, engine):
    """The bug: a deployment for which nothing is free was waited for, for ever."""
    with pytest.raises(UsageError, match=r"1 replicas take 5 CPUs .* and 4 CPUs and 0 GPUs are free"):
        deploy(cluster, Deployment("local", Scale.of(1)), Resources(5, 0), partial(PacedEngine, 0.02), [STOP])


@pytest.mark.filterwarnings("ignore:The .metrics_interval_s. field:DeprecationWarning")  # variables come too late
def test_replicas_come_and_go_with_the_requests_and_no_stream_is_lost(cluster, engine, monkeypatch):
    """The bug: after others of the same name in one process there was one replica for ever. Serve keeps a handle for
    each name; closing the first engine had ended that handle's reports of how many requests there are.
    """
    options = deploying._options

    def hurried(deployment: Deployment, resources: Resources) -> dict:
        made = options(deployment, resources)
        if "autoscaling_config" in made:
            hurry = {"target_ongoing_requests": 2.0, "upscale_delay_s": 1.0, "look_back_period_s": 2.0}
            made["autoscaling_config"].update(hurry, metrics_interval_s=0.5)
        return made

    monkeypatch.setattr(deploying, "_options", hurried)
    name, make = "arriero-range", partial(PacedEngine, 0.02)
    with contextlib.closing(deploy(cluster, Deployment("local", Scale.of(1), name), SIZE, make, [STOP])) as fixed:
        assert list(fixed.submit([7, 7], GREEDY, max_new_tokens=3)) == expected([7, 7], 3)
    ranged = Deployment("local", Scale.of("1:3"), name, downscale_seconds=1.0)
    with contextlib.closing(deploy(cluster, ranged, SIZE, make, [STOP])) as made, ThreadPoolExecutor(9) as pool:
        few, many = threading.Event(), threading.Event()

        def read(number: int, enough: threading.Event) -> None:
            while not enough.is_set():
                assert list(made.submit([9, number], GREEDY, max_new_tokens=50)) == expected([9, number], 50)

        readers = [pool.submit(read, number, few if number == 10 else many) for number in range(10, 19)]
        try:
            wait_for(lambda: running(name) == 3)
            many.set()
            wait_for(lambda: running(name) == 1 and len(replicas(name)) == 1)
        finally:
            many.set()
            few.set()
        for reader in readers:
            reader.result()


def test_what_a_node_lacks_is_told_with_its_address_before_a_model_is_loaded(cluster, tmp_path):
    lacking = ModelFiles(str(tmp_path / "llama"), "no-such-model", "sha256:0")
    with pytest.raises(NotFoundError, match=r"on the node [\d.]+: there is no .*llama") as told:
        check_nodes(cluster, SIZE, [lacking])
    assert "arriero download no-such-model" in told.value.hint
