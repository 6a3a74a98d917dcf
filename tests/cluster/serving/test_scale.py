"""How many replicas find room, and of what size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.cluster.serving.scale import Scale, resources_per_replica
from arriero.errors import UsageError

NODES = st.lists(st.tuples(st.integers(0, 64).map(float), st.integers(0, 8).map(float)), min_size=1, max_size=5)


@pytest.mark.parametrize(("text", "scale"), [(2, (2, 2)), ("3", (3, 3)), ("1:4", (1, 4))])
def test_replicas_are_a_number_or_a_range(text, scale):
    assert (Scale.of(text).min_replicas, Scale.of(text).max_replicas) == scale


@pytest.mark.parametrize("text", [0, -1, "0:2", "3:2", "a", "1:", "", "1:2:3", "1.5", True])
def test_other_replicas_are_refused(text):
    with pytest.raises(UsageError, match="replicas are N or MIN:MAX"):
        Scale.of(text)


def test_fewer_gpus_than_asked_for_are_told_with_what_there_is():
    with pytest.raises(
        UsageError, match=r"3 replicas take one CPU and 1 of the GPUs each.*room for 2: 8 CPUs and 2 GPUs"
    ):
        resources_per_replica(Scale.of(3, 1), [(8.0, 2.0)])


def test_a_replica_is_not_spread_over_nodes():
    with pytest.raises(UsageError, match="room for 0"):
        resources_per_replica(Scale.of(1, 2), [(8.0, 1.0), (8.0, 1.0)])


def test_gpus_are_used_where_there_are_any_unless_told_otherwise():
    assert resources_per_replica(Scale.of(1), [(8.0, 1.0)]).gpus == 1
    assert resources_per_replica(Scale.of(1), [(8.0, 0.0)]).gpus == 0
    assert resources_per_replica(Scale.of(1, 0), [(8.0, 1.0)]).gpus == 0


@given(nodes=NODES, least=st.integers(1, 6), more=st.integers(0, 4), gpus=st.none() | st.integers(0, 3))
def test_all_replicas_find_room_at_their_size_and_would_not_at_a_larger_one(nodes, least, more, gpus):
    def room(cpus: int, gpus: int) -> int:
        return sum(int(min(node[0] // cpus, node[1] // gpus if gpus else node[0])) for node in nodes)

    scale = Scale(least, least + more, gpus)
    try:
        size = resources_per_replica(scale, nodes)
    except UsageError:
        taken = gpus if gpus is not None else int(any(node[1] for node in nodes))
        assert room(1, taken) < least
        return
    wanted = min(scale.max_replicas, room(1, size.gpus))
    assert room(size.cpus, size.gpus) >= wanted
    assert size.gpus or room(size.cpus + 1, 0) < wanted
