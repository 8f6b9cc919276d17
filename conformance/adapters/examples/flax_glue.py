"""Hugging Face's `run_flax_glue.py` behind the adapter interface: its own training step, evaluation and schedule.

The script is in no package: run in its folder, `examples/flax/text-classification` of transformers before 5, or add the
folder to PYTHONPATH. Its step takes full batches only and draws dropout from a key for each device, so neither `padding
rows` nor `dropout` is claimed. Its Adam constants are written into it, and it does not clip.

    sftref verify --adapter sftref.conformance.adapters.examples.flax_glue:FlaxGlue
"""

import functools
from typing import Any, ClassVar

import jax

from ...adapter import Case
from ..loop import Functions, Loop
from ..scripts import inner, script


class FlaxGlue(Loop):
    """The script's `pmap` of `train_step` and `eval_step`, on the model that it trains."""

    name, pmapped = "run_flax_glue.py", True
    capabilities = frozenset({"devices", "jax", "moments", "replicas", "program", "lowering", "costs"})
    fixed: ClassVar = {"b1": 0.9, "b2": 0.999, "eps": 1e-6, "clip_norm": None}

    def build(self, case: Case, devices: Any) -> Functions:
        from transformers import BertConfig, FlaxBertForSequenceClassification

        glue, model = script("run_flax_glue.py"), FlaxBertForSequenceClassification(BertConfig(**case.config))
        rate = glue.create_learning_rate_fn(case.total_steps, 1, 1, case.warmup_steps, case.learning_rate)
        state = glue.create_train_state(model, rate, case.regression, case.num_labels, case.weight_decay)
        parallel = functools.partial(jax.pmap, axis_name="batch", devices=devices)
        train = parallel(inner(glue.main, "train_step", learning_rate_fn=rate), donate_argnums=0)
        kept = {"state": state.replace(logits_fn=lambda logits: logits)}
        return Functions(kept, train, parallel(inner(glue.main, "eval_step")))
