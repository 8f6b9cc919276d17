"""The kit's oracle against an independent implementation, PyTorch in float64, `tox -e parity-torch`.

The model is transformers' BertForSequenceClassification, the update torch's AdamW, clip_grad_norm_ and LambdaLR.
"""

import dataclasses

import numpy as np
import pytest
import torch
import transformers
from kit import PLAIN, batch_of, params_of, relative
from sftref.conformance.adapter import Case, HostBatch
from sftref.conformance.adapters.sftref import model_config
from sftref.conformance.oracle.model import evaluate, value_and_gradient
from sftref.conformance.oracle.tape import Params
from sftref.conformance.oracle.updates import OracleTrainer, decays, learning_rate

pytestmark = pytest.mark.parity_torch

PLAIN_REGRESSION = dataclasses.replace(PLAIN, num_labels=1, regression=True)
CASES = {"classification": PLAIN, "regression": PLAIN_REGRESSION}
# Both compute in float64, in other orders: 2^-53 times the square root of some thousand roundings, and a factor of 8.
ROUNDING = 1e-13


def peer(case: Case, params: Params) -> torch.nn.Module:
    """BERT of this case with these parameters, in float64 and without dropout."""
    config = transformers.BertConfig(
        # Our configuration has transformers' names; transformers ignores the one it does not have, `regression`.
        **dataclasses.asdict(model_config(case)),
        # A padding index would leave that row of the embeddings without a gradient; here 0 is a word like others.
        pad_token_id=None,
        attn_implementation="eager",
    )
    model = transformers.BertForSequenceClassification(config).double().eval()
    state = {name: torch.from_numpy(np.array(leaf)) for name, leaf in params.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("position_ids" in name for name in missing), missing
    return model


def logits_of(model: torch.nn.Module, case: Case, batch: HostBatch) -> torch.Tensor:
    """Of every row; padding is token 0."""
    real = (batch.attention_mask > 0) & (batch.weights > 0)[:, None]
    ids, types = (np.where(real, leaf, 0) for leaf in (batch.input_ids, batch.token_type_ids))
    inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": batch.attention_mask}
    return model(**{name: torch.from_numpy(leaf.astype(np.int64)) for name, leaf in inputs.items()}).logits


def loss_of(model: torch.nn.Module, case: Case, batch: HostBatch) -> torch.Tensor:
    """The weighted mean over the rows that count."""
    real = np.flatnonzero(batch.weights > 0)
    logits, labels = logits_of(model, case, batch)[real], torch.from_numpy(batch.labels[real])
    if case.regression:
        each = (logits[:, 0] - labels.double()) ** 2
    else:
        each = torch.nn.functional.cross_entropy(logits, labels.long(), reduction="none")
    weights = torch.from_numpy(batch.weights[real]).double()
    return (weights * each).sum() / weights.sum()


@pytest.mark.parametrize("name", CASES)
def test_loss_gradient_and_logits(name: str) -> None:
    case = CASES[name]
    params, batch = params_of(case), batch_of(case)
    model = peer(case, params)
    loss = loss_of(model, case, batch)
    loss.backward()
    gradients = {leaf: parameter.grad.numpy() for leaf, parameter in model.named_parameters()}
    want = value_and_gradient(case, params, batch)
    assert gradients.keys() == want.gradients.keys()
    apart = relative(gradients, want.gradients)
    real = batch.weights > 0
    logits = logits_of(model, case, batch).detach().numpy()[real]
    off = float(np.abs(logits - evaluate(case, params, batch)[real]).max() / np.abs(logits).max())
    print(f"\n{name}: loss {abs(loss.item() / want.loss - 1):.1e}, gradients {apart:.1e}, logits {off:.1e}")
    assert loss.item() == pytest.approx(want.loss, rel=ROUNDING)
    assert apart < ROUNDING
    assert off < ROUNDING
    other = value_and_gradient(case, params, batch._replace(labels=np.roll(batch.labels, 1)))
    assert relative(other.gradients, want.gradients) > 0.1  # the control


def test_updates() -> None:
    """Five of them, with a warm-up, clipping that acts, and decay on what decays."""
    case = dataclasses.replace(
        PLAIN, learning_rate=1e-2, weight_decay=0.1, clip_norm=0.5, warmup_steps=2, total_steps=7, eps=1e-6
    )
    params, batch = params_of(case), batch_of(case)
    model = peer(case, params)
    named = dict(model.named_parameters())
    groups = [
        {"params": [p for name, p in named.items() if decays(name) is keep], "weight_decay": 0.1 * keep}
        for keep in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=case.learning_rate, betas=(case.b1, case.b2), eps=case.eps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: learning_rate(case, t) / case.learning_rate)
    oracle = OracleTrainer.start(case, params)
    for _ in range(5):
        optimizer.zero_grad()
        loss = loss_of(model, case, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), case.clip_norm)
        assert norm > case.clip_norm, "nothing to clip"
        optimizer.step()
        schedule.step()
        assert oracle.step(batch).loss == pytest.approx(loss.item(), rel=1e-5)
    walked = {name: leaf.detach().numpy() - params[name] for name, leaf in named.items()}
    want = {name: oracle.params[name] - params[name] for name in params}
    # A key's bias has a gradient of rounding noise, which Adam makes a step of full size.
    moved = [name for name in want if "key.bias" not in name]
    apart = {name: relative({name: walked[name]}, {name: want[name]}) for name in moved}
    worst = max(apart, key=apart.__getitem__)
    print(f"\nafter 5 updates, the worst leaf is {worst}: {apart[worst]:.1e} of its way")
    # clip_grad_norm_ divides by norm + 1e-6, and the norm is over clip_norm.
    assert apart[worst] < 1e-6 / case.clip_norm
