"""A run's report and metrics with everything in them, and a reader that finds faults in HTML."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from typing import Any

EVIL = "<script>alert('x')</script>\n---\n\"quoted\" & `ticks` ``` | 你好"
VOID = {"meta", "br"}


def metrics(steps: int) -> list[dict[str, Any]]:
    """`steps` optimizer steps over two epochs, evaluated in the middle and at the end."""
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        at = {"step": step, "total_steps": steps, "epoch": 2 * step / steps}
        loss = 1.5 + 2.5 * math.exp(-5 * step / steps) + 0.2 * math.sin(step * 1.7)
        rate = 1e-4 * (1 - (step - 1) / steps)
        lines.append({**at, "loss": loss, "learning_rate": rate, "grad_norm": 1 + 1 / step, "tokens_per_second": 390.0})
        if step in (steps // 2, steps):
            lines.append({**at, "eval_loss": 2.8 - 0.3 * step / steps})
    return lines


def report() -> dict[str, Any]:
    """The report of a run of 40 steps."""
    return {
        "result": {
            "output": "/home/me/runs/llama-driver", "steps": 40, "samples": 184, "epochs": 2.0, "train_loss": 2.389,
            "eval_loss": 2.5, "seconds": 61.2, "logical_tokens_per_second": 394.7, "computed_tokens_per_second": 233.9,
            "peak_memory_bytes": 2055938048, "resumed_from": 10,
        },
        "model": "smollm2-135m-instruct",
        "base_fingerprint": "sha256:9380",
        "system": "You are Tomás, a llama driver.",
        "versions": {"arriero": "0.1.0", "torch": "2.9.0"},
        "machine": "2 CPU cores, 16 GB",
        "options": {"epochs": 2.0, "learning_rate": 0.002, "max_length": None, "target_modules": ["q_proj", "v_proj"]},
        "plan": {
            "prefix_sharing": "on", "reason": "it saves 41% of the work", "row_tokens": 512, "checkpointing": "some",
            "recomputed": 12, "estimated_bytes": 1.9e9, "available_bytes": 12.4e9,
            "fast": {"lora": 210, "norm": 61}, "precision": "bfloat16",
        },
        "verify": {"loss_difference": 1.2e-7, "gradient_difference": 3.1e-6, "tolerance": 1e-4, "fell_back": False},
        "data": {
            "files": ["llama-driver.json"], "format": "alpaca", "rows": 203, "kept": 200, "dropped_count": 3,
            "held_out": 16, "duplicates": 2, "tokens": 12650, "loss_tokens": 5210, "longest": 118,
            "prefix_tokens": 22, "key": "ab",
        },
        "held_out": 16,
        "dropped": [{"row": 12, "reason": "the output is empty", "file": "llama-driver.json"}] * 3,
        "best": {"step": 40, "eval_loss": 2.5},
        "evaluation": {
            "base": {"nll": 3.71, "perplexity": 40.9, "stop_rate": 0.25},
            "adapter": {"nll": 2.5, "perplexity": 12.2, "stop_rate": 1.0},
        },
        "answers": [
            {
                "prompt": [
                    {"role": "system", "content": "You are Tomás, a llama driver."},
                    {"role": "user", "content": "你是谁？"},
                ],
                "expected": "我是托马斯。",
                "before": {"text": "I'm sorry. " * 40, "finish_reason": "length"},
                "after": {"text": "我是托马斯·基斯佩，安第斯高原上的赶驼人。", "finish_reason": "stop"},
            }
        ],
    }  # fmt: skip


class Reader(HTMLParser):
    """Reads a page; `text` is what a person sees of it, `tags` every element in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
