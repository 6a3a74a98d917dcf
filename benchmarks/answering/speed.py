"""The part that measures tokens per second and first-token times, of all ways to answer in turn."""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from benchmarks.answering.engines import CHAT
from benchmarks.lib.channel import Document
from benchmarks.lib.children import OPENVINO, Bench, Child, ChildError, Way, reason
from benchmarks.lib.figures import over, quantile, rate, spread
from benchmarks.lib.gguf import capacity, llama_cpp
from benchmarks.lib.questions import long_answers, prompt

OURS = "arriero-openvino"
VARIANTS = {
    OURS: "our Chat over OpenVINO, weights in int8: rendering, engine, detokenizer and stop strings, read by asyncio",
    "arriero-openvino-adapter": "the same with --adapter in force",
    "arriero-transformers": "our Chat over transformers",
    "arriero-transformers-process": "the same with the engine in a process of its own",
    "arriero-transformers-eager": "the same with --cuda-graphs off",
    "arriero-vllm": "our Chat over vLLM, in the environment of --vllm-python",
    "openvino": "OpenVINO GenAI's ContinuousBatchingPipeline alone, same files and settings, ids in and out",
    "openvino-defaults": "the same with the library's own scheduling: more of the prompts in a step",
    "transformers": "transformers.generate in bfloat16, one batch padded on the left, ids in and out",
    "llama.cpp": "llama.cpp's own server without HTTP (xllamacpp), a slot for each request, ids in and text out",
    "vllm": "vLLM's AsyncLLM in bfloat16, ids in, text and ids out",
}
ON_A_GPU = ("arriero-transformers-eager",)  # elsewhere it is what the other is


def way(name: str, bench: Bench) -> Way | str:
    """How to run a variant, or the reason why it cannot be."""
    options = bench.options
    if "vllm" in name and not options.vllm_python:
        return "no --vllm-python was given"
    match name:
        case "openvino" | "openvino-defaults":
            return bench.way(OPENVINO, scheduling="ours" if name == "openvino" else "defaults")
        case "transformers":
            return bench.way("benchmarks.answering.ways.generate")
        case "vllm":
            bare = bench.way("benchmarks.answering.ways.vllm", **capacity(bench))
            return replace(bare, python=options.vllm_python)
        case "llama.cpp":
            return llama_cpp(bench)
        case "arriero-vllm":
            return replace(bench.way(CHAT, engine="vllm"), python=options.vllm_python)
        case "arriero-transformers-eager":
            return bench.way(CHAT, engine="transformers", cuda_graphs="off")
        case "arriero-openvino-adapter":
            adapter = options.adapter
            return bench.way(CHAT, engine="openvino", adapter=str(adapter)) if adapter else "no --adapter was given"
    return bench.way(CHAT, engine=name.removeprefix("arriero-"))


def measure(bench: Bench) -> Document:
    """All variants' figures; every round goes through them forwards and backwards in turn."""
    options, questions = bench.options, long_answers()
    warm_up = list(itertools.islice(questions, max(options.requests)))  # caches grow to the size they will need
    with ExitStack() as stack:
        children, reasons = _loaded(bench, warm_up, stack)
        results: dict[str, dict[int, list[Document]]] = {
            name: {count: [] for count in options.requests} for name in children
        }
        for number in range(options.rounds):
            chosen = {count: list(itertools.islice(questions, count)) for count in options.requests}
            for name in list(children)[:: -1 if number % 2 else 1]:
                print(f"speed: round {number + 1}, {name}", file=sys.stderr)
                for count, asked in chosen.items():
                    results[name][count].append(_asked(children[name], bench, asked))
        base = results.get(OURS, next(iter(results.values()), None))
        abouts = {name: child.about for name, child in children.items()}
    return {
        "tokens": options.tokens,
        "rounds": options.rounds,
        "variants": {name: abouts[name] | figures(results[name], base) for name in results},
        "not_measured": reasons,
    }


def _loaded(bench: Bench, warm_up: Sequence[str], stack: ExitStack) -> tuple[dict[str, Child], dict[str, str]]:
    """A child for each variant, warmed up, and the reasons why there is none for others."""
    children: dict[str, Child] = {}
    reasons: dict[str, str] = {}
    for name in bench.options.variants:
        if isinstance(chosen := way(name, bench), str):
            reasons[name] = chosen
            continue
        print(f"speed: loading {name}", file=sys.stderr)
        try:
            child = Child(chosen, bench.folder / f"{name}.log")
            stack.callback(child.close)
            for count in sorted(bench.options.requests, reverse=True):  # CUDA graphs are of one number of requests
                _asked(child, bench, warm_up[:count])
            children[name] = child
        except ChildError as error:
            reasons[name] = reason(name, error)
    return children, reasons


def _asked(child: Child, bench: Bench, questions: Sequence[str]) -> Document:
    prompts = [prompt(bench.renderer, question) for question in questions]
    return child.timed(do="answer", questions=questions, prompts=prompts, tokens=bench.options.tokens)


def figures(results: dict[int, list[Document]], ours: dict[int, list[Document]] | None) -> Document:
    """A variant's figures; `ratio` is its rate over that of `ours` in the same round, the median of all rounds."""
    result: Document = {"requests": {}}
    for count, rounds in results.items():
        rates = [rate(each) for each in rounds]
        first = [seconds for each in rounds for seconds in each["first"] if seconds > 0]
        tokens = [number for each in rounds for number in each["tokens"]]
        base = [rate(each) for each in ours[count]] if ours else None
        result["requests"][str(count)] = {
            "tokens_per_second": spread(rates),
            "ratio": statistics.median(over(rates, base)) if base else None,
            "first_token_s": statistics.median(first) if first else None,
            "first_token_p95_s": quantile(first, 0.95) if first else None,
            "tokens_per_answer": statistics.fmean(tokens),
            "others": max(each["others"] for each in rounds),
        }
    return result
