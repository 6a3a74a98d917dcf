"""Faster pieces for the forward and backward pass of a model, put in where they compute the same.

functions.py   the pieces: LoRA linear layer, norm, SwiGLU, rotary embedding
last_layer.py  the end of the last decoder layer, at loss positions only
varlen.py      attention over a packed row by torch's variable-length flash attention
probing.py     what a model computes with a few tokens, and whether a piece computes the same
pieces.py      which parts of a model they could stand in for
install.py     Kernels: proves where they fit, puts them in for a while

"""

from arriero.training.kernels.install import Kernels

__all__ = ["Kernels"]
