"""What `arriero doctor` says of a Ray cluster: its nodes, what runs there, and what keeps it from being used."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from arriero.cluster.connect import faults, join
from arriero.errors import ArrieroError


def examine(address: str) -> dict[str, Any]:
    """`address`, `nodes` as `Node` has them, `applications` of Ray Serve by state, `wrong` with what mends it.

    A cluster that cannot be joined is a report as well.
    """
    report: dict[str, Any] = {"address": address, "nodes": [], "applications": {}, "wrong": []}
    try:
        with join(address) as cluster:
            nodes = cluster.nodes()
            report["nodes"] = [asdict(node) for node in nodes]
            report["applications"] = _applications()
            wrong = faults(nodes)
    except ArrieroError as error:
        wrong = [error]
    report["wrong"] = [{"what": error.message, "try": error.hint} for error in wrong]
    return report


def _applications() -> dict[str, str]:
    """Also those of servers that were killed: their replicas stay until a server of the same name takes them over."""
    from ray import serve

    return {name: str(application.status.value) for name, application in serve.status().applications.items()}
