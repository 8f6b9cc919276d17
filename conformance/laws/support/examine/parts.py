"""A trainer and a wrong run -> its gradient without Adam, and the part of the network that is wrong."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ....adapter import HostBatch, fixed_of
from ....core.comparison import Bound, distance
from ....oracle.bounds_derived import UNIT
from ....oracle.bounds_measured import FACTOR, gradient_reference, logits_reference
from ....oracle.tape import Params
from ....oracle.variants.located import Pair
from ....oracle.variants.replay import Log, Seen, joined
from ....oracle.variants.search import explain
from .made import Until, made

# Constants under which the first update shows the gradient: p - g / (|g| + 1), without history, decay and clipping.
PLAIN: dict[str, Any] = {
    "learning_rate": 1.0, "warmup_steps": 0, "total_steps": 10**6, "weight_decay": 0.0, "clip_norm": None,
    "b1": 0.0, "b2": 0.0, "eps": 1.0, "accumulate": 1,
}  # fmt: skip


def gradient(trainer: Any, log: Log) -> tuple[Pair, HostBatch] | None:
    """The gradient of the fullest batch, from an update with the constants of PLAIN; None if the trainer fixes one."""
    fixed = fixed_of(trainer)
    if any(fixed.get(name, value) != value for name, value in PLAIN.items()):
        return None
    batches = [call.batch for call in log.calls if call.method == "step" and call.batch is not None]
    if not batches:
        return None
    batch = max(batches, key=lambda one: int((one.weights > 0).sum()))
    case = dataclasses.replace(log.case, **PLAIN)
    run = made(trainer, Log(case, log.params, log.n), [("step", batch), ("params", None)])
    moved = {name: log.params[name] - leaf for name, leaf in run.calls[-1].result.items()}
    if not all((np.abs(leaf) < 1).all() for leaf in moved.values()):  # nor NaN
        return None
    got = {name: leaf / (1 - np.abs(leaf)) for name, leaf in moved.items()}
    reference = gradient_reference(case, log.params, batch)
    limits = {}
    for name, bound in reference.bounds.items():
        # Of the stored parameter and of the step, magnified by the slope of g in terms of the step.
        error = UNIT["float32"] * (np.abs(log.params[name]) + 1) / (1 - np.abs(moved[name])) ** 2
        noise = float(np.hypot(bound.noise, np.linalg.norm(error)))
        limits[name] = Bound(FACTOR * noise, noise, f"{bound.why}, and the rounding of an update")
    pair = Pair(Seen("gradient", 0, got, log.params), Seen("gradient", 0, reference.want, log.params), limits)
    return pair, batch


def _zero(params: Params, *ends: str) -> Params:
    return params | {name: leaf * 0 for name, leaf in params.items() if name.endswith(ends)}


def _alike(params: Params, end: str) -> Params:
    return params | {name: leaf * 0 + leaf[:1] for name, leaf in params.items() if name.endswith(end)}


# What is switched off -> parameters without it. In order: the first that makes the logits right is the smallest part.
PARTS: dict[str, Callable[[Params], Params]] = {
    "token types (all types have one embedding)": lambda p: _alike(p, "token_type_embeddings.weight"),
    "positions (all positions have one embedding)": lambda p: _alike(p, "position_embeddings.weight"),
    "attention scores (queries are zero, so attention is uniform)": lambda p: _zero(p, "query.weight", "query.bias"),
    "attention (the weight of its output is zero)": lambda p: _zero(p, "attention.output.dense.weight"),
    "the feed-forward layers (their output weight is zero)": lambda p: p | {
        name: leaf * 0
        for name, leaf in p.items()
        if name.endswith(".output.dense.weight") and "attention" not in name
    },
    "attention and feed-forward layers": lambda p: _zero(p, ".output.dense.weight"),
    "all that comes before the pooler (its weight is zero)": lambda p: _zero(p, "pooler.dense.weight"),
}  # fmt: skip


# Without attention and feed-forward layers, and with one embedding for all tokens: no token is another than the first.
ONE_TOKEN: dict[str, Callable[[Params], Params]] = {
    "": lambda p: _alike(_zero(p, ".output.dense.weight"), "_embeddings.weight")
}


def switched_off(
    trainer: Any, log: Log, parts: dict[str, Callable[[Params], Params]] = PARTS
) -> Iterator[tuple[str, bool]]:
    """Pairs: a part of the network, and whether the logits of an evaluation are right without it."""
    batch = next(call.batch for call in log.calls if call.method == "evaluate" and call.batch is not None)
    for part, change in parts.items():
        params = change(log.params)
        run = made(trainer, Log(log.case, params, log.n), [("evaluate", batch)])
        want = logits_reference(log.case, params, batch)
        got = run.calls[0].result[batch.weights > 0]
        yield part, distance(got, want.want["logits"], 1.0) <= want.bounds["logits"].value


def alone(run: Log, until: Until) -> Iterator[str]:
    """A variant of the oracle that gives the logits before any update, though not what follows."""
    first = next(call for call in run.calls if call.method == "evaluate")
    explanation = explain([Log(run.case, run.params, run.n, [first])], until.processor - time.thread_time(), deepest=1)
    if explanation is not None and explanation.found:
        causes = " Or: ".join(several[0].cause for several in explanation.found).removesuffix(".")
        yield f"the logits alone are those of a network with this: {causes}"


# The fewest numbers whose errors are compared.
FEWEST = 12
# The relative changes of parameters under which an error is compared with itself, and the correlation below which it is
# irregular. An operator that is another function errs nearly alike at both; a rounding to at most 11 bits does not,
# since values then fall at other places between two numbers of that type.
MOVED, DRAWS, ALIKE = 0.02, 3, 0.5
# The largest relative error that is called a rounding: that of numbers of 3 bits, as of the 8-bit type e4m3.
ROUGHEST = 2.0**-4


def irregular(trainer: Any, run: Log, method: str) -> str:
    """A sentence, if the wrong logits or gradients of a run err as by rounding; empty if not.

    `method` is `evaluate` or `gradients`, called before any update.
    """
    batch = next((call.batch for call in run.calls if call.method == method and call.batch is not None), None)
    if batch is None or run.case.precision == "bfloat16":
        return ""
    errors, sizes = [], []
    for draw in range(1 + DRAWS):
        rng = np.random.default_rng(draw)
        size = MOVED if draw else 0.0
        params = {
            name: (leaf * (1 + size * rng.standard_normal(leaf.shape))).astype(np.float32).astype(np.float64)
            for name, leaf in run.params.items()
        }
        got = made(trainer, Log(run.case, params, run.n), [(method, batch)]).calls[0].result
        if method == "evaluate":
            got, want = {"logits": got[batch.weights > 0]}, logits_reference(run.case, params, batch)
        else:
            want = gradient_reference(run.case, params, batch)
        errors.append(joined({name: got[name] - leaf for name, leaf in want.want.items()}, [*want.want], want.bounds))
        sizes.append(np.concatenate([np.ravel(got[name] - leaf) for name, leaf in want.want.items()]))
        whole = np.concatenate([np.ravel(leaf) for leaf in want.want.values()])
    first, *others = errors
    norms = [float(np.linalg.norm(one)) for one in errors]
    if len(first) < FEWEST or not all(np.isfinite(norms)) or min(norms) <= 1:
        return ""
    alike = [float(first @ one) / norms[0] / norm for one, norm in zip(others, norms[1:], strict=True)]
    if max(map(abs, alike)) >= ALIKE:
        return ""
    relative = float(np.linalg.norm(sizes[-1]) / np.linalg.norm(whole))
    if relative > ROUGHEST:
        return ""
    return (
        f"the error is another one if all parameters change by {MOVED:.1%} (correlation {max(alike, key=abs):.2f}), as "
        f"that of a rounding is; it is {relative:.1e} of the result"
    )


def parts(trainer: Any, log: Log) -> Iterator[str]:
    """In which part of the network a wrong forward pass is."""
    found = dict(switched_off(trainer, log))
    *parts, all_before = found
    right = [part for part in parts if found[part]]
    if right:
        yield f"the logits are right without {right[0]}"
        return
    more = ""
    if not found[all_before]:
        rest = "the pooler's bias and activation, the classifier, what is returned"
    elif dict(switched_off(trainer, log, ONE_TOKEN))[""]:
        more = ", and are right if all tokens have one embedding besides"
        rest = "the look-up of embeddings (ids, types, positions, their sum), the token that the pooler reads"
    else:
        rest = "LayerNorms, their order, the pooler's weight"
    yield f"they stay wrong without attention and feed-forward layers{more}, so at least one of these is wrong: {rest}"
