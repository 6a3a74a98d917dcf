"""A worker process without a model: what a request is given as `does` is done by it."""

from __future__ import annotations

import logging
import threading
import time
import warnings

from arriero import errors
from arriero.engines.process import worker
from arriero.engines.process.crossing import described


class Worker(worker.Worker):
    """Every request answers the ids of its prompt; those that are to "wait" do when they are cancelled."""

    busy = False

    def step(self):
        pass

    def load(self, **model):
        if model.get("forever"):
            threading.Event().wait()

    def open(self, key, adapter, now):
        if now:
            self._events.append(("open", key, {"adapter": adapter}))

    def retire(self, key):
        pass

    def put(self, number, key, ids, does=None, **arguments):
        if does is not None:
            getattr(self, f"_{does}")(number, **arguments)
        if does not in ("wait", "raise"):
            self._events += [("ids", number, ids), ("end", number, "stop")]

    def cancel(self, number):
        self._events.append(("end", number, "cancelled"))

    def _wait(self, number):
        self._events.append(("ids", number, [1]))

    def _raise(self, number, kind, arguments):
        self._events.append(("fail", number, *described(getattr(errors, kind)(**arguments))))

    def _log(self, number, name, level):
        logging.getLogger(name).log(level, "said by %s", "the worker")

    def _warn(self, number, text):
        warnings.warn(text, FutureWarning, stacklevel=1)

    def _hold(self, number):
        time.sleep(3600)
