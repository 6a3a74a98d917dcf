"""Admission against a simple model of it, under every sequence of requests that Hypothesis finds."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from arriero.server.admission import Admission, Limits, Permit
from tests.server.test_admission import entering, turn


class Model:
    """What Admission should do, said simply: who runs, and who waits in which key's line."""

    def __init__(self, slots: int) -> None:
        self.free = slots
        self.running: list[int] = []
        self.keys: list[str] = []  # whose turn is next
        self.lines: dict[str, list[tuple[int, int]]] = {}

    def enter(self, number: int, key: str, slots: int) -> None:
        self.lines.setdefault(key, []).append((number, slots))
        if key not in self.keys:
            self.keys.append(key)
        self.serve()

    def release(self, number: int, slots: int) -> None:
        self.running.remove(number)
        self.free += slots
        self.serve()

    def give_up(self, number: int) -> None:
        self.lines = {key: [entry for entry in line if entry[0] != number] for key, line in self.lines.items()}
        self.keys = [key for key in self.keys if self.lines[key]]
        self.serve()

    def serve(self) -> None:
        while self.keys:
            key = self.keys[0]
            number, slots = self.lines[key][0]
            if slots > self.free:
                return
            self.lines[key].pop(0)
            self.keys.pop(0)
            if self.lines[key]:
                self.keys.append(key)
            self.free -= slots
            self.running.append(number)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.sampled_from("abc"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["release", "cancel", "both"]), st.integers(0, 20), st.booleans()),
    ),
    max_size=60,
)


@given(STEPS)
def test_it_does_what_a_simple_model_does_and_no_slot_is_lost(steps):
    asyncio.run(compare(steps))


async def compare(steps) -> None:
    """Do the same to an Admission of 3 slots and to the model; "both" cancels and leaves without a turn between."""
    admission, model = Admission(Limits(max_running=3, max_waiting=1000)), Model(3)
    tasks: list[asyncio.Task[Permit]] = []
    sizes: list[int] = []
    over: set[int] = set()

    def release(which: int) -> None:
        running = sorted(model.running)
        if running:
            number = running[which % len(running)]
            over.add(number)
            tasks[number].result().release()
            model.release(number, sizes[number])

    def cancel(which: int) -> None:
        waiting = [n for n, task in enumerate(tasks) if not task.done() and n not in over]
        if waiting:
            number = waiting[which % len(waiting)]
            over.add(number)
            tasks[number].cancel()
            if number in model.running:  # its turn has come, but it will not take it
                model.release(number, sizes[number])
            else:
                model.give_up(number)

    for kind, what, how in steps:
        if kind == "enter":
            tasks.append(entering(admission, what, how))
            sizes.append(how)
            model.enter(len(tasks) - 1, what, how)
        if kind in ("release", "both"):
            release(what)
        if kind in ("cancel", "both"):
            cancel(what)
        await turn()
        inside = {n for n, task in enumerate(tasks) if task.done() and not task.cancelled() and n not in over}
        assert inside == set(model.running)
        assert admission.running == sum(sizes[number] for number in model.running)
        assert admission.waiting == sum(map(len, model.lines.values()))
    while model.running:
        release(0)
        await turn()
    assert (admission.running, admission.waiting) == (0, 0)
    await admission.idle()


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_how_many_come_first_is_how_many_do(keys):
    async def scenario() -> None:
        admission = Admission(Limits(max_running=1))
        permit = await admission.enter("a", tag="first")
        assert admission.ahead("first") is None, "it does not wait"
        tasks = [asyncio.create_task(admission.enter(key, tag=number)) for number, key in enumerate(keys)]
        await turn()
        expected = {number: admission.ahead(number) for number in range(len(keys))}
        order: list[int] = []
        for _ in keys:
            permit.release()
            await turn()
            order += (served := [n for n, task in enumerate(tasks) if task.done() and n not in order])
            permit = tasks[served[0]].result()
        assert [expected[number] for number in order] == list(range(len(keys)))

    asyncio.run(scenario())
