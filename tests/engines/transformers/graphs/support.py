"""A scheduler with graphs, driven by hand."""

from __future__ import annotations

from hypothesis import strategies as st

from arriero.engines.generation import Generation
from arriero.engines.transformers.adapters import Adapters
from arriero.engines.transformers.forward import Forward
from arriero.engines.transformers.graphs import DecodeGraphs
from arriero.engines.transformers.requests import Request
from arriero.engines.transformers.scheduler import Scheduler
from arriero.messages import Sampling
from tests.engines.transformers.support import END, GREEDY, PROMPT
from tests.op_graph import OpCapture

ON = Sampling(logit_bias=((END, -100.0),)).over(GREEDY)


class Driven:
    """A scheduler with graphs, driven by hand."""

    def __init__(self, model, capture=None, *, make=DecodeGraphs, grammars=None):
        self.capture = capture or OpCapture()
        forward = Forward(model)
        self.graphs = make(forward, self.capture)
        self.adapters = Adapters(model)
        self.scheduler = Scheduler(forward, self.adapters, grammars, [END], self.graphs)

    def add(self, ids=PROMPT, limit=30, sampling=GREEDY, **more):
        request = Request(Generation(len(ids)), list(ids), sampling, limit, **more)
        self.scheduler.add(request)
        return request

    def run(self):
        while self.scheduler.requests:
            self.scheduler.step()

    def answer(self, *arguments, **more):
        request = self.add(*arguments, **more)
        self.run()
        return request.answer_ids

    def load(self, directories):
        """Adapters by name, and the base, whose name is None."""
        return {None: None, **{name: self.adapters.load(directory) for name, directory in directories.items()}}

    def answers_are(self, expected, names):
        """Two requests to each of the `names`, all at once, are answered as `expected`."""
        requests = [(name, self.add(adapter=names[name])) for name in [*names, *names]]
        self.run()
        for name, request in requests:
            assert request.answer_ids == expected[name], name


MOST_TOKENS = 24
VISITS = (
    st.tuples(  # which prompt, how much of the answer, after which step it comes, after how many more it is cancelled
        st.integers(0, 7), st.integers(1, MOST_TOKENS), st.integers(0, 20), st.one_of(st.none(), st.integers(0, 15))
    )
)
