"""The public path of `examples/torch.py`: `--adapter sftref.conformance.adapters.torch:ddp`."""

from .ddp import Torch
from .examples.torch import ddp, single, with_padding_token

__all__ = ["Torch", "ddp", "single", "with_padding_token"]
