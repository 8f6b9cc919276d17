#!/usr/bin/env bash
# flax 0.12.8 with JAX 0.10.2, Python 3.11, simulated CPU devices, 2026-11-30.
#
# Behaviour: `flax.linen.BatchNorm` and `flax.nnx.BatchNorm` with a mask and an `axis_name` average the means of the
# devices, however many rows each of them has. Rows 1 and (9), 5 and 7 on two devices, the one in brackets masked out,
# give the mean 3.5; on one device it is 4.33. A device whose rows are all masked out makes the statistics of every
# device NaN, and the running statistics with them.
# Expected: the mean over the positions of the mask on all devices. `mask` is documented as "the positions for which the
# mean and variance should be computed", `axis_name` as what combines the statistics of several devices.
# Who meets this: anyone who pads the last batch of an epoch, or sequences, and trains on several devices. The result
# depends on their number, and one device with padding only ruins the model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 flax==0.12.8
cat > "$folder/seen" <<'SEEN'
padding spread, one device: mean 4.333, variance 6.222
padding spread, two devices: mean 3.500, variance 6.750
padding last, one device: mean 5.000, variance 16.000
padding last, two devices: mean nan, variance nan
nnx, padding spread: one device mean 4.333, two devices mean 3.500
SEEN
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - > "$folder/now" 2> "$folder/errors" <<'PYTHON' || { cat "$folder/errors"; exit 1; }
import flax.linen
import flax.nnx
import jax

jax.config.update("jax_num_cpu_devices", 2)
import numpy

rows = numpy.array([[1], [9], [5], [7]], numpy.float32)
for name, mask in (("spread", [1, 0, 1, 1]), ("last", [1, 1, 0, 0])):
    mask = numpy.array(mask, bool)[:, None]
    for count, devices in (("one", 1), ("two", 2)):
        layer = flax.linen.BatchNorm(use_running_average=False, momentum=0.0, axis_name="devices")
        variables = flax.linen.BatchNorm(use_running_average=False).init(jax.random.key(0), rows)

        def step(x, m):
            return layer.apply(variables, x, mask=m, mutable=["batch_stats"])[1]["batch_stats"]

        parts = (rows.reshape(devices, -1, 1), mask.reshape(devices, -1, 1))
        seen = jax.pmap(step, "devices", devices=jax.devices()[:devices])(*parts)
        mean, variance = float(seen["mean"][0, 0]), float(seen["var"][0, 0])
        print(f"padding {name}, {count} device{'s' * (devices > 1)}: mean {mean:.3f}, variance {variance:.3f}")


def nnx_mean(x, m):
    layer = flax.nnx.BatchNorm(1, axis_name="devices", momentum=0.0, rngs=flax.nnx.Rngs(0))
    layer(x, mask=m)
    return layer.mean[...]


mask, means = numpy.array([1, 0, 1, 1], bool)[:, None], {}
for devices in (1, 2):
    parts = (rows.reshape(devices, -1, 1), mask.reshape(devices, -1, 1))
    means[devices] = float(jax.pmap(nnx_mean, "devices", devices=jax.devices()[:devices])(*parts)[0, 0])
print(f"nnx, padding spread: one device mean {means[1]:.3f}, two devices mean {means[2]:.3f}")
PYTHON
diff "$folder/seen" "$folder/now" && echo "as recorded"
