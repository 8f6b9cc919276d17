"""The operators of the oracle, forward and backward, in NumPy float64.

From Hendrycks and Gimpel (2016, GELU by erf) and Ba et al. (2016, LayerNorm). Each returns its value and a function
from the gradient of its output to that of its input, which also adds up the gradients of its parameters.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ..adapter import Arrays

Array = npt.NDArray[np.float64]
Params = dict[str, Array]
Back = Callable[[Array], Array]
Rounding = Callable[[Array], Array]


def unrounded(x: Array) -> Array:
    """Exact arithmetic: x itself."""
    return x


class Tape:
    """Parameters, and the sums of their gradients, under the names of a Hugging Face checkpoint.

    `rounding` acts on erf and tanh. Where they are near 1 or -1, it is what is left of 1 + erf and of 1 - tanh^2, so
    parameters hardly change these as much as the rounding does.
    """

    def __init__(self, params: Arrays, rounding: Rounding = unrounded) -> None:
        self.rounding = rounding
        self.params: Params = {name: np.asarray(value, np.float64) for name, value in params.items()}
        self.gradients: Params = {name: np.zeros_like(value) for name, value in self.params.items()}

    def linear(self, x: Array, name: str) -> tuple[Array, Back]:
        """The affine map x W^T + b over the last axis, with W [out, in]."""
        weight, bias = self.params[f"{name}.weight"], self.params[f"{name}.bias"]

        def back(dy: Array) -> Array:
            flat = dy.reshape(-1, dy.shape[-1])
            self.gradients[f"{name}.weight"] += flat.T @ x.reshape(-1, x.shape[-1])
            self.gradients[f"{name}.bias"] += flat.sum(axis=0)
            return dy @ weight

        return x @ weight.T + bias, back

    def layer_norm(self, x: Array, name: str, eps: float) -> tuple[Array, Back]:
        """(x - mean) / sqrt(variance + eps) over the last axis, times the scale, plus the bias."""
        scale = self.params[f"{name}.weight"]
        centred = x - x.mean(axis=-1, keepdims=True)
        root = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)
        unit = centred / root

        def back(dy: Array) -> Array:
            axes = tuple(range(dy.ndim - 1))
            self.gradients[f"{name}.weight"] += (dy * unit).sum(axis=axes)
            self.gradients[f"{name}.bias"] += dy.sum(axis=axes)
            d = dy * scale
            along = (d * unit).mean(axis=-1, keepdims=True)
            return (d - d.mean(axis=-1, keepdims=True) - unit * along) / root

        return unit * scale + self.params[f"{name}.bias"], back

    def embedding(self, ids: npt.NDArray[np.integer], name: str) -> tuple[Array, Callable[[Array], None]]:
        """The rows `ids` of a table."""

        def back(dy: Array) -> None:
            np.add.at(self.gradients[f"{name}.weight"], ids, dy)

        return self.params[f"{name}.weight"][ids], back

    def gelu(self, x: Array) -> tuple[Array, Back]:
        """The function of the same name."""
        return gelu(x, self.rounding)

    def tanh(self, x: Array) -> tuple[Array, Back]:
        """The hyperbolic tangent."""
        y = self.rounding(np.tanh(x))
        return y, lambda dy: dy * (1.0 - y**2)


def gelu(x: Array, rounding: Rounding = unrounded) -> tuple[Array, Back]:
    """GELU: x Phi(x), with slope Phi(x) + x phi(x); Phi and phi are the normal distribution and its density."""
    # Imported here, because the import takes most of a second and the rungs of the machine do not need it.
    from scipy.special import erf

    phi = 0.5 * (1.0 + rounding(erf(x / math.sqrt(2.0))))
    slope = phi + x * np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)
    return x * phi, lambda dy: dy * slope


def softmax(x: Array) -> tuple[Array, Back]:
    """exp(x) / sum exp(x) over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    return p, lambda dp: p * (dp - (dp * p).sum(axis=-1, keepdims=True))
