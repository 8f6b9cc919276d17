"""Which seeded faults plain comparisons miss: 8 devices against 1, and `allclose` with a correct trainer.

    python tests/studies/plain_comparisons.py

Each faulty trainer makes three updates, on 8 devices and on 1, with ragged, weighted batches and dropout; the last
batch has too few rows for all devices. Most tests do less. Two differences are compared with common tolerances: between
8 devices and 1, and between the faulty and the correct trainer on 8 devices. All numbers are float64, so rounding does
not affect the result. Faults that need more (micro-batches, bfloat16, a large mean, a checkpoint, an epoch) cannot
appear here.
"""

import sys

import numpy as np
from sftref.conformance.core.settings import SIMULATED_DEVICES
from sftref.conformance.faults.trainers import FAULTS
from sftref.conformance.faults.trainers.numpy_trainer import NumpyTrainer
from sftref.conformance.oracle.cases import main_case, start_params
from sftref.conformance.oracle.draws import batch_of

# (rtol, atol): the values that people write most often, and the defaults of `torch.testing.assert_close` for float32.
TOLERANCES = {"1e-3, 1e-3": (1e-3, 1e-3), "1.3e-6, 1e-5": (1.3e-6, 1e-5)}
REAL_ROWS = (16, 16, 11)


def course(trainer: NumpyTrainer, devices: int) -> dict[str, np.ndarray]:
    """The arrays that a test can compare: the first gradient, each loss, then logits and parameters."""
    case = main_case(trainer.capabilities)
    rng = np.random.default_rng(0)
    start = start_params(case, rng)
    batches = [batch_of(case, rng, real=real) for real in REAL_ROWS]
    trainer.start(case, start, devices)
    values = {f"gradient of {name}": np.asarray(leaf) for name, leaf in trainer.gradients(batches[0]).items()}
    values["losses"] = np.array([trainer.step(batch).loss for batch in batches])
    values["logits"] = np.asarray(trainer.evaluate(batches[0]))
    return values | {name: np.array(leaf) for name, leaf in trainer.params().items()}


def close(got: dict[str, np.ndarray], want: dict[str, np.ndarray], tolerance: tuple[float, float]) -> bool:
    """Whether `allclose` passes for all arrays."""
    rtol, atol = tolerance
    return all(np.allclose(got[name], leaf, rtol=rtol, atol=atol, equal_nan=True) for name, leaf in want.items())


def main() -> int:
    """Run all trainers, compare them, and print the table."""
    right = course(NumpyTrainer(), SIMULATED_DEVICES)
    assert close(right, course(NumpyTrainer(), 1), (1e-12, 1e-12)), "the right trainer depends on the device count"
    missed: dict[str, list[str]] = {}
    for fault in FAULTS:
        wrong = {n: course(FAULTS[fault](), n) for n in (1, SIMULATED_DEVICES)}
        for label, tolerance in TOLERANCES.items():
            for how, other in (("two trainers that share it", wrong[1]), ("allclose to a right one", right)):
                names = missed.setdefault(f"{how} ({label})", [])
                if close(wrong[SIMULATED_DEVICES], other, tolerance):
                    names.append(fault)
    print(f"of {len(FAULTS)} faults seeded in a trainer, missed by\n\n| comparison (rtol, atol) | missed | which |")
    print("|---|---|---|")
    for how, names in missed.items():
        print(f"| {how} | {len(names)} | {', '.join(names)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
