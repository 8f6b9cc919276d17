"""The public path of `examples/torch.py`: `--adapter sftref.conformance.adapters.torch:ddp`."""

from .examples.torch import Torch, ddp, single, with_padding_token

__all__ = ["Torch", "ddp", "single", "with_padding_token"]
