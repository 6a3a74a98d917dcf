"""The part that measures tokens per second and their times over HTTP, beside the engine alone."""

from __future__ import annotations

import asyncio
import functools
import itertools
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import uvloop

from benchmarks.lib.channel import Document
from benchmarks.lib.children import OPENVINO, Bench, Child, ChildError, reason
from benchmarks.lib.figures import over, percentiles, rate, spread
from benchmarks.lib.gguf import llama_cpp
from benchmarks.lib.questions import long_answers, prompt
from benchmarks.serving.client import CHAT, Answer, Call, chat_body
from benchmarks.serving.servers import Server, Target, ours, transformers_serve

BARE = "openvino"
VARIANTS = {
    BARE: "OpenVINO GenAI's ContinuousBatchingPipeline alone, same files and settings, ids in and out, no HTTP",
    "arriero serve": "our server over OpenVINO",
    "llama.cpp": "llama.cpp's own HTTP server (xllamacpp), a slot for each request",
    "transformers serve": "transformers' own server in bfloat16, as it is",
    "transformers serve, batching": "the same with --continuous-batching",
}
Ask = Callable[[Sequence[str]], Document]


@dataclass(frozen=True, slots=True)
class Running:
    """A variant that is loaded: how to ask it, and the processes whose time counts."""

    ask: Ask
    target: Target
    about: Document

    def measured(self, questions: Sequence[str]) -> Document:
        """Answers to all questions at once, with the processor time that they took."""
        before = self.target.usage()
        answers = self.ask(questions)
        return answers | self.target.usage().since(before, sum(answers["tokens"]))


def measure(bench: Bench) -> Document:
    """All variants' figures; every round goes through them forwards and backwards in turn."""
    options, questions = bench.options, long_answers()
    reasons: dict[str, str] = {}
    with ExitStack() as stack:
        running = _loaded(bench, list(itertools.islice(questions, max(options.requests))), stack, reasons)
        results: dict[str, dict[int, list[Document]]] = {name: {} for name in running}
        enough = {name: max(options.requests) for name in running}  # what it could do in time
        for number in range(options.rounds):
            chosen = {count: list(itertools.islice(questions, count)) for count in options.requests}
            for name in list(running)[:: -1 if number % 2 else 1]:
                for count in [count for count in chosen if count <= enough[name]]:
                    print(f"speed: round {number + 1}, {name}, {count}", file=sys.stderr)
                    try:
                        measured = running[name].measured(chosen[count])
                    except ChildError as error:
                        reasons[f"{name}, {count}"] = reason(name, error)
                        measured = {"unfinished": count}
                    else:
                        results[name].setdefault(count, []).append(measured)
                    if measured.get("unfinished"):
                        enough[name] = count - 1
                        break
    return {
        "tokens": options.tokens,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "variants": {name: running[name].about | figures(results[name], results.get(BARE)) for name in results},
        "not_measured": reasons,
    }


def _loaded(bench: Bench, warm_up: Sequence[str], stack: ExitStack, reasons: dict[str, str]) -> dict[str, Running]:
    """The chosen variants, warmed up; `reasons` gets why others are not there."""
    loaded: dict[str, Running] = {}
    for name in bench.options.variants:
        print(f"speed: loading {name}", file=sys.stderr)
        try:
            running = _start(name, bench, stack)
            running.ask(warm_up[:1] if name.startswith("transformers") else warm_up)
            loaded[name] = running
        except ChildError as error:
            reasons[name] = reason(name, error)
    return loaded


def _start(name: str, bench: Bench, stack: ExitStack) -> Running:
    """A variant's processes, which end with `stack`."""
    log = bench.folder / f"{name}.log"
    if name in (BARE, "llama.cpp"):
        way = bench.way(OPENVINO, scheduling="ours") if name == BARE else llama_cpp(bench)
        if isinstance(way, str):
            raise ChildError(way)
        child = Child(way, log)
        stack.callback(child.close)
        pid = child.family()[0].pid
        if name == BARE:
            return Running(functools.partial(_alone, child, bench), Target(0, "", pid), child.about)
        target, about = Target.at(child.about["url"], pid), child.about
    else:
        model = str(bench.options.model) if name.startswith("transformers") else None  # that one lists no directory
        options = _options(name, bench)
        server = Server((ours if model is None else transformers_serve)(bench, *options), log, model)
        stack.callback(server.close)
        target, about = server.target, {"description": " ".join(options) or "no options"}
    return Running(lambda questions: uvloop.run(_streamed(target, questions, bench)), target, about)


def _options(name: str, bench: Bench) -> list[str]:
    if name == "arriero serve":
        return ["--max-running", str(bench.options.max_running or max(bench.options.requests))]
    return ["--continuous-batching"] if name.endswith("batching") else []


def _alone(child: Child, bench: Bench, questions: Sequence[str]) -> Document:
    prompts = [prompt(bench.renderer, question) for question in questions]
    answers: Document = child.ask(do="answer", prompts=prompts, tokens=bench.options.tokens)
    return answers


async def _streamed(target: Target, questions: Sequence[str], bench: Bench) -> Document:
    """Stream all answers at once; what is not there after --seconds is broken off."""
    calls = [await Call.open(target.port) for _ in questions]
    for call, question in zip(calls, questions, strict=True):
        call.send(CHAT, chat_body(target.model, question, bench.options.tokens))
    waits = [asyncio.ensure_future(call.ended.wait()) for call in calls]
    _, unfinished = await asyncio.wait(waits, timeout=bench.options.seconds)
    for call in calls:
        call.abort()
    answers = [Answer.of(call) for call in calls]
    for call, answer in zip(calls, answers, strict=True):
        if call.status not in (200, None) or answer.error or (call.status is None and not unfinished):
            raise ChildError(f"a request was answered with {call.status}: {answer.error}")
    start = calls[0].sent
    return {
        "seconds": max([call.arrivals[-1][0] for call in calls if call.arrivals], default=start + bench.options.seconds)
        - start,
        "first": [answer.texts[0] - start for answer in answers if answer.texts],
        "gaps": [gap for answer in answers for gap in answer.gaps()],
        "tokens": [answer.tokens for answer in answers],
        "unfinished": len(unfinished),
    }


def figures(results: dict[int, list[Document]], base: dict[int, list[Document]] | None) -> Document:
    """A variant's figures; `ratio` is its rate over the engine's alone in the same round, the median of all rounds."""
    by_count: Document = {"requests": {}}
    for count, rounds in results.items():
        rates = [rate(result) for result in rounds]
        bare = [rate(result) for result in base[count][: len(rates)]] if base else None
        by_count["requests"][str(count)] = {
            "tokens_per_second": spread(rates),
            "ratio": statistics.median(over(rates, bare)) if bare else None,
            "first_s": percentiles([seconds for result in rounds for seconds in result["first"]]),
            "gap_s": percentiles([seconds for result in rounds for seconds in result.get("gaps", ())]),
            "tokens_per_answer": statistics.fmean(number for result in rounds for number in result["tokens"]),
            "unfinished": sum(result.get("unfinished", 0) for result in rounds),
            "ms_per_token": {
                who: statistics.fmean(result["ms_per_token"][who] for result in rounds)
                for who in rounds[0]["ms_per_token"]
            },
            "others": max(result["others"] for result in rounds),
        }
    return by_count
