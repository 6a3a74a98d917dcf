"""What is measured, for Prometheus (https://prometheus.io/docs/concepts/metric_types/)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from arriero.server.admission import Admission

if TYPE_CHECKING:
    from arriero.server.access_log import AccessRecord
    from arriero.server.streaming import MergedStreams

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
TOKEN_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)


class Metrics:
    """One server's counters; several servers in one process do not share them."""

    def __init__(self, admission: Admission) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("arriero_requests", "Requests", ["path", "status"], registry=registry)
        self.rejected = Counter("arriero_requests_rejected", "Requests refused", ["reason"], registry=registry)
        self.cancelled = Counter("arriero_requests_cancelled", "Requests broken off", ["model"], registry=registry)
        self.prompt = Counter("arriero_prompt_tokens", "Tokens of prompts", ["model"], registry=registry)
        self.completion = Counter("arriero_completion_tokens", "Tokens of answers", ["model"], registry=registry)
        self.finished = Counter(
            "arriero_answers", "Answers by finish reason", ["model", "finish_reason"], registry=registry
        )
        self.texts = Counter("arriero_embeddings", "Texts that were embedded", ["model"], registry=registry)
        self.queue = Histogram("arriero_queue_seconds", "Time waiting for a slot", buckets=SECONDS, registry=registry)
        self.first_token = Histogram(
            "arriero_time_to_first_token_seconds",
            "From the request to its first token",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.per_token = Histogram(
            "arriero_time_per_output_token_seconds",
            "Mean time between a request's tokens",
            ["model"],
            buckets=TOKEN_SECONDS,
            registry=registry,
        )
        self.total = Histogram(
            "arriero_request_seconds", "From the request to its end", ["model"], buckets=SECONDS, registry=registry
        )
        running = Gauge("arriero_answers_running", "Answers being generated", registry=registry)
        running.set_function(lambda: admission.running)
        waiting = Gauge("arriero_requests_waiting", "Requests waiting for a slot", registry=registry)
        waiting.set_function(lambda: admission.waiting)

    def count_streams(self, streams: MergedStreams) -> None:
        """Count a request's streams, which are over; those of batches have no latency, for nobody waits for them."""
        record = streams.record
        model = record.model or ""
        self.prompt.labels(model).inc(record.prompt_tokens)
        self.completion.labels(model).inc(record.completion_tokens)
        if not record.background:
            self.total.labels(model).observe(record.elapsed())
        for reason in record.finish_reasons:
            self.finished.labels(model, reason).inc()
        if "cancelled" in record.finish_reasons:
            self.cancelled.labels(model).inc()
        if record.first_token_s is not None:
            if not record.background:
                self.first_token.labels(model).observe(record.first_token_s)
            if record.completion_tokens > 1:
                seconds = record.elapsed() - record.first_token_s
                self.per_token.labels(model).observe(seconds / (record.completion_tokens - 1))

    def count_embeddings(self, record: AccessRecord, texts: int) -> None:
        """Count a request whose texts, as many as `texts`, became vectors."""
        model = record.model or ""
        self.texts.labels(model).inc(texts)
        self.prompt.labels(model).inc(record.prompt_tokens)
        if not record.background:
            self.total.labels(model).observe(record.elapsed())

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
