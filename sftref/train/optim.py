"""OptimConfig, total steps -> an optax optimizer: AdamW with a linear schedule, and a mask for weight decay."""

from typing import Any

import optax
from flax import traverse_util

from sftref.config import OptimConfig, require


def linear_schedule(config: OptimConfig, total_steps: int) -> optax.Schedule:
    """The learning rate of update t = 0, 1, ...: up from 0 over the warm-up, then down to 0 at `total_steps`.

    lr * t / warmup                          for t < warmup
    lr * (total - t) / (total - warmup)      after it

    Source: `transformers.get_linear_schedule_with_warmup`; without a warm-up, the article's `optax.linear_schedule`.

    Raises:
        ConfigError: the warm-up is not shorter than the run.
    """
    warmup = config.warmup_steps
    require(
        warmup < total_steps,
        f"--warmup-steps = {warmup}, must be less than the {total_steps} steps of the run; "
        "train longer or warm up for fewer steps",
    )
    down = optax.linear_schedule(config.learning_rate, 0.0, total_steps - warmup)
    if warmup == 0:
        return down
    return optax.join_schedules([optax.linear_schedule(0.0, config.learning_rate, warmup), down], [warmup])


def decay_mask(params: Any) -> Any:
    """True for parameters with weight decay: all except biases and LayerNorm scales (the article's `decay_mask_fn`)."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: path[-1] not in ("bias", "scale") for path in flat})


def make_optimizer(config: OptimConfig, total_steps: int) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter, 2019) as in the article, after clipping by global norm if `clip_norm` is set."""
    adamw = optax.adamw(
        linear_schedule(config, total_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )
    return adamw if config.clip_norm is None else optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
