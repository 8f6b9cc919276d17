"""ONNX Runtime with the BERT of `transformers`: evaluation only, of the weights that the PyTorch peer has."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch_peer import TorchLoop, padded
from workload import BATCH

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class OnnxRuntime:
    """The model of a PyTorch peer, exported with free sizes of rows and length, with all of the runtime's rewriting."""

    def __init__(self, peer: TorchLoop) -> None:
        self.work, model = peer.work, peer.model.eval()
        batch = padded(self.work.held_out, np.arange(BATCH))
        sizes = {0: "rows", 1: "length"}
        with TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            torch.onnx.export(
                _Logits(model).eval(),
                tuple(batch[name] for name in INPUTS),
                str(path),
                input_names=list(INPUTS),
                output_names=["logits"],
                dynamic_axes=dict.fromkeys(INPUTS, sizes) | {"logits": {0: "rows"}},
                opset_version=17,
                dynamo=False,
            )
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.check(batch, model)

    def check(self, batch: dict[str, Any], model: Any) -> None:
        """Check that the exported model has the logits of `model`."""
        with torch.inference_mode():
            want = model(**{name: batch[name] for name in INPUTS}).logits.numpy()
        np.testing.assert_allclose(self.logits(batch), want, rtol=1e-3, atol=1e-4)

    def logits(self, batch: dict[str, Any]) -> np.ndarray:
        """The logits [B, C] of padded examples."""
        return np.asarray(self.session.run(None, {name: batch[name].numpy() for name in INPUTS})[0])

    def evaluate(self) -> None:
        """Evaluate once, in batches sorted by length, each padded to its longest example."""
        tokens, right = self.work.held_out, 0
        order = np.argsort(-tokens.lengths, kind="stable")
        for first in range(0, len(order), BATCH):
            batch = padded(tokens, order[first : first + BATCH])
            right += int((self.logits(batch).argmax(-1) == batch["labels"].numpy()).sum())


class _Logits(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        """The logits alone, from inputs in this order."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits
