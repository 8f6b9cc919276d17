"""Values -> allowances: how far each element of a computed operator or derivative may be from the exact value.

Notation: u is the unit round-off (2^-24 in float32), n the number of terms of a sum. Each function returns an absolute
allowance for each element, with which `Check.within` compares the error. The allowances rest on three facts.

1. fl(a op b) = (a op b)(1 + d) with |d| <= u (Higham, "Accuracy and Stability of Numerical Algorithms", section 2.2).
2. Rounding errors of a long sum behave as independent and of mean zero (Higham and Mary, "A new approach to
   probabilistic rounding error analysis", SISC 2019). The machine's order of summation is unknown; the bound is for
   adding one term after the other, which has the largest partial sums.
   - Terms of any signs (`one_sign`): no partial sum exceeds sum |t|, so the error of the sum is at most
     LAMBDA u sqrt(n) sum |t| except with probability 2 exp(-LAMBDA^2 / 2). With LAMBDA = 5 and a rounding of 0.42 u
     (root mean square, the significand spread logarithmically) that is 12 standard deviations.
   - Terms of random signs (`random_signs`; Higham and Mary, "Sharper probabilistic backward error analysis for basic
     linear algebra kernels with random data", 2020): the partial sums are a random walk W, so the rms error
     is 0.42 u sqrt((n + 1) / 2) sqrt(sum t^2). Its tail is longer than a normal one, as a walk far out rounds more:
     P(integral of W^2 > v) falls like exp(-pi^2 v / 8), which makes P(error > x root mean squares) fall like
     exp(-1.11 x). WALK = 11 = 0.42 * 26 leaves 10^-12 for each element: 10^-1 for 10^4 runs of 10^7 elements each, all
     of them in the worst order.
3. Elementary functions are as good as OpenCL 3.0 demands of a full profile (specification, section 7.4, in ulp, and
   1 ulp <= 2 u): division 2.5, exp 3, log 3, rsqrt 2, tanh 5, erfc 16. CUDA's and ROCm's libraries promise more.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.comparison import Bound

Array = npt.NDArray[np.float64]

# Unit round-off 2^-p, p the bits of the significand with the leading one (IEEE 754; for TF32, NVIDIA A100 white paper).
UNIT = {
    "float64": 2.0**-53, "float32": 2.0**-24, "bfloat16_3x": 2.0**-16, "tensorfloat32": 2.0**-11, "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}  # fmt: skip
U = UNIT["float32"]
LAMBDA, WALK = 5.0, 11.0
DIVISION, EXP, LOG, RSQRT, TANH, ERFC = 5, 6, 6, 4, 10, 32  # in units of u: twice the ulp of fact 3
# The smallest normal numbers. A machine may round smaller ones to zero, as OpenCL allows and TPUs do.
TINY = {"float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}
# The largest error expected of right arithmetic, as a share of its allowance: 0.42 of 5, or 4 * 0.42 of 11.
TYPICAL = 0.1


def allowed(why: str) -> Bound:
    """The bound for `Check.within`: 1, because that method divides each element's error by the element's allowance."""
    return Bound(1.0, TYPICAL, why)


def random_signs(squares: Any, n: int) -> Array:
    """Allowance of a sum of n rounded products of random signs, whose squares sum to `squares`."""
    return WALK * U * math.sqrt((n + 3) / 2) * np.sqrt(np.asarray(squares, np.float64))


def one_sign(total: Any, n: int) -> Array:
    """Allowance of a sum of n terms of any signs, whose magnitudes sum to `total`."""
    return LAMBDA * U * math.sqrt(n + 1) * np.asarray(total, np.float64)


def product(a: Array, b: Array, *, operand: float = 0.0) -> Array:
    """Allowance of a [..., M, K] @ b [..., K, N] in float64, whose elements have random signs.

    `operand` is the unit round-off of the format to which operands are rounded first, 0 if they are not. The allowance
    has twice that, since a machine may truncate instead.
    """
    # Computed in float32, which is exact enough for an allowance and takes half the time.
    root = np.sqrt(((a * a).astype(np.float32) @ (b * b).astype(np.float32)).astype(np.float64))
    terms = WALK * U * math.sqrt((a.shape[-1] + 3) / 2)
    # Each operand errs by at most 2 u; the errors of the products add up as the products do, in random directions.
    return (terms + LAMBDA * math.sqrt(2) * operand) * root


def product_norm(a: Array, b: Array, *, operand: float = 0.0) -> tuple[Bound, float]:
    """The bound of the l2 error of a @ b with random signs, and its scale, the root of the sum of all squared products.

    Over thousands of elements, the mean square error is near its expectation, (0.42 u)^2 in the worst order; the
    bound allows u^2.
    """
    scale = math.sqrt(float((a * a).sum(axis=0) @ (b * b).sum(axis=1)))
    worst = U * math.sqrt((a.shape[-1] + 3) / 2)
    typical = 0.42 * U * math.sqrt(math.log2(a.shape[-1]) + 1)
    why = f"u sqrt((n + 3) / 2), n = {a.shape[-1]}"
    if not operand:
        return Bound(worst, typical, why), scale
    cut = math.sqrt(2) * operand
    return Bound(worst + 2 * cut, 0.42 * cut, f"{why}, and two operands cut by 2 u = {2 * operand:.1e}"), scale


def product_of(a: Array, a_off: Any, b: Array, b_off: Any) -> Array:
    """Allowance of a @ b of any signs if a and b err by `a_off` and `b_off`: to first order, in the worst direction."""
    return one_sign(np.abs(a) @ np.abs(b), a.shape[-1]) + np.abs(a) @ b_off + a_off @ np.abs(b)


def softmax_relative(x: Array) -> Array:
    """Relative allowance of softmax: of x - max (exp makes its rounding u |x - max|), exp, the sum and the division."""
    top = x.max(axis=-1, keepdims=True)
    drop = np.where(np.isfinite(x), top - x, 0.0)
    p = np.exp(x - top)
    p /= p.sum(axis=-1, keepdims=True)
    of_sum = (p * drop).sum(axis=-1, keepdims=True) + EXP + LAMBDA * math.sqrt(x.shape[-1])
    return U * (drop + EXP + of_sum + DIVISION)


def softmax(x: Array, p: Array) -> Array:
    """Allowance of the softmax p of x; exp and the quotient may each be flushed to zero."""
    return p * softmax_relative(x) + 2 * TINY["float32"]


def softmax_backward(x: Array, p: Array, dp: Array) -> Array:
    """Allowance of p (dp - sum dp p): p errs by its allowance in both places; two products may be flushed to zero."""
    off = softmax(x, p)
    mixed = np.abs(dp) * p
    mean = mixed.sum(axis=-1, keepdims=True)
    of_sum = one_sign(mean, x.shape[-1]) + (np.abs(dp) * off).sum(axis=-1, keepdims=True)
    return (np.abs(dp) + mean) * (off + 3 * U * p) + p * of_sum + 2 * TINY["float32"]


class LayerNorm:
    """The allowances of LayerNorm in two passes, for x [..., n].

    The mean errs by m = LAMBDA u sqrt(n + 1) mean |x|, which moves every element by m / sqrt(variance + eps). So the
    error grows with the ratio of mean to standard deviation. With a one-pass variance (mean of squares minus square of
    mean) it grows with the square of that ratio, which the law must see. The root errs by its own rounding and by half
    the error of the mean square, which consists of the rounding of its sum and of (m / standard deviation)^2.
    """

    def __init__(self, x: Array, eps: float) -> None:
        n = x.shape[-1]
        self.n = n
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        self.inverse = 1.0 / np.sqrt(variance + eps)
        self.unit = centred * self.inverse
        shift = one_sign(np.abs(x).mean(axis=-1, keepdims=True), n) * self.inverse
        self.root_off = 0.5 * (one_sign(1.0, n) + 3 * U + shift**2) + RSQRT * U
        self.unit_off = shift + np.abs(self.unit) * (self.root_off + 3 * U)

    def forward(self, scale: Array, bias: Array) -> Array:
        """Allowance of unit * scale + bias."""
        y = np.abs(self.unit * scale) + np.abs(bias)
        return self.unit_off * np.abs(scale) + 2 * U * y

    def backward(self, d: Array) -> Array:
        """Allowance of (d - mean d - unit mean(d unit)) / root, where d is the gradient times the scale.

        `by_unit` is from the error of `unit`; `spread` is larger than `parts` since JAX takes the mean of all parts.
        """
        along = np.abs(d * self.unit).mean(axis=-1, keepdims=True)
        parts = np.abs(d) + np.abs(d).mean(axis=-1, keepdims=True) + np.abs(self.unit) * along
        spread = parts + parts.mean(axis=-1, keepdims=True)
        by_unit = self.unit_off * along + np.abs(self.unit) * (np.abs(d) * self.unit_off).mean(axis=-1, keepdims=True)
        by_unit = by_unit + by_unit.mean(axis=-1, keepdims=True)
        return self.inverse * (spread * (one_sign(1.0, self.n) + 3 * self.root_off + 8 * U) + by_unit)


def gelu(x: Array, tail: Array) -> Array:
    """Allowance of x erfc(-x / sqrt(2)) / 2; `tail` is the upper tail of the normal distribution at |x|.

    In erfc(z), z = |x| / sqrt(2), three roundings of z and z^2 become a relative error of 5 z^2 u; erfc itself errs by
    16 ulp. The roundings of the tail come near these worst cases: errors of 0.66 of the allowance are usual there.
    """
    value = np.where(x > 0, 1.0 - tail, tail) * np.abs(x)
    return U * ((ERFC + 4) * value + 2.5 * x**2 * np.abs(x) * tail) + np.abs(x) * TINY["float32"]


def gelu_slope(x: Array, tail: Array) -> Array:
    """Allowance of Phi(x) + x phi(x), derived as for `gelu`; phi takes exp of a rounded square."""
    share = np.where(x > 0, 1.0 - tail, tail)
    bell = np.abs(x) * np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    terms = (ERFC + 4) * share + 2.5 * x**2 * tail + (2 * EXP + 2.5 * x**2) * bell
    return U * terms + (1 + np.abs(x)) * TINY["float32"]


def tanh(y: Array) -> Array:
    """Allowance of a tanh whose value is y."""
    return TANH * U * np.abs(y) + TINY["float32"]


def cross_entropy(logits: Array, losses: Array, at: tuple[npt.NDArray[Any], npt.NDArray[Any]]) -> Array:
    """Allowance of log sum exp(x - max) - (x_label - max), labels `at`, from the differences, exp, the sum and log.

    A loss far above 1 has two roundings, each of at most u, so an error of 0.55 of the allowance is usual.
    """
    top = logits.max(axis=-1, keepdims=True)
    drop = top - logits
    e = np.exp(-drop)
    total = e.sum(axis=-1)
    of_sum = (e * drop).sum(axis=-1) / total + EXP + LAMBDA * math.sqrt(logits.shape[-1])
    return U * (drop[at] + of_sum + LOG * np.log(total) + 2 * np.abs(losses))
