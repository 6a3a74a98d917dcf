"""Every training option, declared once: the command line, configuration files and Python all read this class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, cast

from cyclopts import Parameter

from arriero.data.options import DataOptions

Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]


@dataclass(frozen=True, kw_only=True)
class TrainOptions(DataOptions):
    """How to read the data (see DataOptions) and how to train.

    Parameters
    ----------
    epochs
        Passes over the training part.
    batch_size
        Samples per optimizer step.
    learning_rate
        Peak of the schedule.
    lr_scheduler_type
        How the learning rate goes on after the warm-up: falling in a line, as a cosine, or staying.
    warmup_steps
        Optimizer steps over which the learning rate rises from 0; below 1, their share of all steps.
    max_grad_norm
        Gradients are scaled down to this norm; 0 leaves them as they are.
    weight_decay
        AdamW's weight decay.
    from_adapter
        Adapter directory to continue from, with its own LoRA settings and system prompt. Default: a new adapter.
    rank
        Rank r of the LoRA matrices.
    alpha
        LoRA alpha; the update is scaled by alpha / rank, with rsLoRA by alpha / sqrt(rank).
    dropout
        Dropout on the input of the LoRA matrices.
    use_rslora
        Rank-stabilised LoRA.
    use_dora
        DoRA: weights decomposed into magnitude and direction. Slower.
    target_modules
        Names of the linear layers that get LoRA matrices, several with blanks or commas between them. auto: the
        projections of attention and feed-forward blocks, as the model calls them; all-linear: every one but the head.
    resize_embeddings
        Give embeddings to tokens that the tokenizer has and the model has not, and train those.
    precision
        What the model computes in. auto: bfloat16 where the machine is fast at it, else float32.
    load_in_4bit
        Keep the base weights in 4 bits (NF4, by bitsandbytes).
    shard
        Share the base weights out among several workers (FSDP2). auto: where they take more than half of a GPU.
    prefix_sharing
        Compute what the examples of a step begin with once. auto: where the model allows it; on: or refuse.
    cuda_graphs
        Replay rows as CUDA graphs. auto: short ones, which wait for the launch of their kernels; on: all, or refuse.
    verify
        Compare the first step with the plain computation, and fall back to that if they differ; false: do not.
    row_tokens
        Longest packed row in tokens. Default: what fits into memory.
    recompute
        Compute layers again in the backward pass to save memory. auto: as many as have to be.
    eval_steps
        Optimizer steps between evaluations on the held-out part. Default: one epoch.
    early_stopping_patience
        Stop after this many evaluations without a lower loss; 0 never stops early. The best adapter is then kept.
    keep
        Which adapter is written at the end: the last, or that with the lowest held-out loss.
    save_steps
        Optimizer steps between checkpoints.
    save_total_limit
        How many checkpoints are kept, besides the best.
    report_to
        Trackers that transformers knows, by name: tensorboard, wandb, mlflow ….
    report_answers
        How many held-out prompts are answered before and after for the report.

    """

    epochs: float = 3
    batch_size: int = 16
    learning_rate: float = 1e-4
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: float = 0
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    from_adapter: str | None = None
    rank: int = 8
    alpha: float = 32
    dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    target_modules: Names = ("auto",)
    resize_embeddings: bool = False
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    load_in_4bit: bool = False
    shard: Literal["auto", "on", "off"] = "auto"
    prefix_sharing: Literal["auto", "on", "off"] = "auto"
    cuda_graphs: Literal["auto", "on", "off"] = "auto"
    verify: bool = True
    row_tokens: int | None = None
    recompute: Literal["auto", "off", "all"] = "auto"
    eval_steps: int | None = None
    early_stopping_patience: int = 0
    keep: Literal["last", "best"] = "last"
    save_steps: int = 100
    save_total_limit: int = 2
    report_to: tuple[str, ...] = ()
    report_answers: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        given = cast(Any, self.target_modules)  # a file of options may have a text
        names = given.split() if isinstance(given, str) else given
        object.__setattr__(self, "target_modules", tuple(name for some in names for name in some.split(",") if name))
        for name in ("epochs", "learning_rate", "alpha"):
            self._need(name, 0 < getattr(self, name) < math.inf, "greater than 0 and finite")
        for name in ("batch_size", "rank", "save_steps", "save_total_limit"):
            self._need(name, getattr(self, name) >= 1, "at least 1")
        for name in ("row_tokens", "eval_steps"):
            self._need(name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        for name in ("warmup_steps", "max_grad_norm", "weight_decay", "early_stopping_patience", "report_answers"):
            self._need(name, 0 <= getattr(self, name) < math.inf, "at least 0 and finite")
        self._need("learning_rate", self.learning_rate < 1, "less than 1")
        self._need("dropout", 0 <= self.dropout < 1, "at least 0 and less than 1")
        self._one_of("lr_scheduler_type", "linear", "cosine", "constant")
        self._one_of("precision", "auto", "bfloat16", "float32")
        for name in ("prefix_sharing", "cuda_graphs", "shard"):
            self._one_of(name, "auto", "on", "off")
        self._one_of("recompute", "auto", "off", "all")
        self._one_of("keep", "last", "best")
        self._need("load_in_4bit", not self.load_in_4bit or self.shard != "on", "off where weights are sharded")
        self._need("target_modules", bool(self.target_modules), "at least one layer name")
        alone = len(self.target_modules) == 1 or not {"auto", "all-linear"} & {*self.target_modules}
        self._need("target_modules", alone, "auto, all-linear, or names of layers")
        for name, default in (("early_stopping_patience", 0), ("eval_steps", None), ("keep", "last")):
            nothing = getattr(self, name) == default
            self._need(
                name, nothing or self.eval_fraction > 0, f"{default} where nothing is held out (eval_fraction 0)"
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> TrainOptions:
        """Build from keyword arguments; an unknown name is refused, naming the nearest known one."""
        cls.refuse_unknown("train", values)
        return cls(**values)

    @property
    def changed(self) -> dict[str, Any]:
        """The options that are not at their defaults."""
        defaults = asdict(TrainOptions())
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}
