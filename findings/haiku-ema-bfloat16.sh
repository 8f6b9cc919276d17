#!/usr/bin/env bash
# dm-haiku 0.0.17 with JAX 0.10.2, Python 3.11, CPU, 2026-11-30.
#
# Behaviour: `hk.ExponentialMovingAverage` converts the decay to the dtype of the value. In bfloat16 0.999 is 1, so the
# average is 0 divided by 1 - 1^t = 0: NaN from the first step. `hk.EMAParamsTree(0.999)` of bfloat16 parameters is NaN
# throughout, and so is `hk.BatchNorm` with `decay_rate=0.999` in evaluation, while training is fine. In float16 0.9999
# does the same. There is no warning.
# Expected: the average of equal values is that value. `decay` is documented as a number in [0, 1).
# Who meets this: anyone who trains with bfloat16 activations or parameters: the loss of the training falls, and the
# first evaluation is NaN. dm-haiku#396, closed, reports NaN from a bfloat16 BatchNorm.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 dm-haiku==0.0.17
cat > "$folder/seen" <<'SEEN'
float32, decay 0.99: training 1.0, evaluation 1.0, average of the weight 2 2.0
float32, decay 0.999: training 1.0, evaluation 1.0, average of the weight 2 2.0
float32, decay 0.9999: training 1.0, evaluation 1.0, average of the weight 2 2.0
bfloat16, decay 0.99: training 1.0, evaluation 1.0, average of the weight 2 2.0
bfloat16, decay 0.999: training 1.0, evaluation nan, average of the weight 2 nan
bfloat16, decay 0.9999: training 1.0, evaluation nan, average of the weight 2 nan
float16, decay 0.99: training 1.0, evaluation 1.0, average of the weight 2 2.0
float16, decay 0.999: training 1.0, evaluation 1.0, average of the weight 2 2.0
float16, decay 0.9999: training 1.0, evaluation nan, average of the weight 2 nan
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import haiku as hk
import jax.numpy as jnp


def norm(x, is_training, decay):
    return hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=decay)(x, is_training)


def average(tree, decay):
    return hk.EMAParamsTree(decay)(tree)


norm, average = hk.transform_with_state(norm), hk.transform_with_state(average)
for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
    for decay in (0.99, 0.999, 0.9999):
        rows = jnp.array([[1.0], [3.0]], dtype)
        weights, state = norm.init(None, rows, True, decay)
        tree = {"linear": {"w": jnp.full((), 2.0, dtype)}}
        _, averages = average.init(None, tree, decay)
        for _ in range(3):
            trained, state = norm.apply(weights, state, None, rows, True, decay)
            ema, averages = average.apply(None, averages, None, tree, decay)
        tested, _ = norm.apply(weights, state, None, rows, False, decay)
        print(f"{jnp.dtype(dtype).name}, decay {decay}: training {float(trained[1, 0]):.1f}, ", end="")
        print(f"evaluation {float(tested[1, 0]):.1f}, average of the weight 2 {float(ema['linear']['w']):.1f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
