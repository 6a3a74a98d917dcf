"""Faster pieces for the forward and backward pass of a model, put in where they compute the same.

functions.py  the pieces: LoRA linear layer, norm, SwiGLU, rotary embedding, loss of the head
install.py    Kernels: finds where they fit, proves it on a probe, puts them in for a while

"""

from arriero.training.kernels.functions import HeadLoss, LogitsLoss
from arriero.training.kernels.install import Kernels

__all__ = ["HeadLoss", "Kernels", "LogitsLoss"]
