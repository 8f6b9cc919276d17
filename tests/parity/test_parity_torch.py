"""Our model against PyTorch's BertForSequenceClassification, in transformers 5: `tox -e parity-torch`."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from parity_cases import Parity, rectangle

from sftref.config import ModelConfig
from sftref.data.tokens import TokenArrays
from sftref.model.names import Flat

assert torch.__version__.split("+")[0] == "2.13.0", f"torch {torch.__version__}, must be 2.13.0"
assert transformers.__version__.startswith("5."), f"transformers {transformers.__version__}, must be 5"

pytestmark = pytest.mark.parity_torch


class TestTorchBert(Parity):
    """The peer that is maintained."""

    def peer(self, folder: Path, tokens: TokenArrays, config: ModelConfig, precision: str) -> tuple[np.ndarray, Flat]:
        """See `Parity.peer`; the loss is the model's own."""
        model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=getattr(torch, precision), attn_implementation="eager", output_loading_info=True
        )
        assert isinstance(model, transformers.BertForSequenceClassification)
        assert not any(report.values()), report
        labels = torch.from_numpy(tokens.labels if config.regression else tokens.labels.astype(np.int64))
        inputs = {name: torch.from_numpy(array).long() for name, array in rectangle(tokens).items()}
        result = model.eval()(**inputs, labels=labels.to(model.dtype) if config.regression else labels)
        result.loss.backward()
        gradients = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
        return result.logits.detach().numpy(), gradients
