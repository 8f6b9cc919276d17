"""PyTorch behind the adapter interface: `transformers`' BERT and `torch.optim.AdamW`, in one process or with DDP.

DDP runs over gloo. Model, optimizer and schedule are below; `../torch_rank.py` has the loop around them, which keeps
what such a loop usually does:

- every example counts alike: `weights` is not claimed; nor is `dropout`, since PyTorch's own generator draws the masks;
- if the processes cannot share rows equally, `DistributedSampler` repeats some, which then count twice: in the loss, in
  the gradient, in an epoch and in a score;
- the reported loss is the mean of the processes' losses.

The adapter changes one thing. In `transformers` the embedding of token 0 gets no gradient, because tokenizers use that
token for padding only. In the kit every id is a word, so the adapter trains that row like the others; the factory
`with_padding_token` does not, and fails.

    sftref verify --adapter sftref.conformance.adapters.examples.torch:single
    sftref verify --adapter sftref.conformance.adapters.examples.torch:ddp --devices 2
"""

import functools

import transformers

from ...adapter import Case
from ..ddp import Torch
from ..torch_rank import Parts, Rank


class Bert(Rank):
    """The model of transformers; the embedding of the token `pad`, if there is one, is never trained."""

    pad: int | None = None

    def build(self, case: Case) -> Parts:
        config = transformers.BertConfig(**case.config, pad_token_id=self.pad)
        model = transformers.BertForSequenceClassification(config)
        return Parts(model, *self.adamw(case, model))


class PaddedBert(Bert):
    """With token 0 for padding, as is the default."""

    pad = 0


single = functools.partial(Torch, Bert, "PyTorch")
with_padding_token = functools.partial(Torch, PaddedBert, "PyTorch, token 0 is padding")
# One process, or two under DistributedDataParallel.
ddp = functools.partial(Torch, Bert, "PyTorch DDP", parallel=True)
