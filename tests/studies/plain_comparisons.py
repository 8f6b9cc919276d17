"""Which seeded faults of a trainer plain comparisons would miss: of two trainers that share it, and `allclose`.

    python tests/plain_comparisons.py

Each wrong trainer makes three updates, on 8 devices and on 1, of ragged and weighted batches with dropout, the last one
too small for all devices: more than most tests ask. What the two, or the wrong one and the right one on 8 devices,
then differ by is held against the tolerances that people write. All is float64, so that rounding counts for neither
side. What a fault needs beyond that (micro-batches, bfloat16, a large mean, a checkpoint, an epoch) is not asked.
"""

from __future__ import annotations

import sys

import numpy as np
from sftref.conformance.faults import trainers
from sftref.conformance.faults.trainers.numpy_trainer import NumpyTrainer
from sftref.conformance.oracle.cases import main_case, start_params
from sftref.conformance.oracle.draws import batch_of

# (rtol, atol): what is written by hand most often, and `torch.testing.assert_close`'s own for float32.
TOLERANCES = {"1e-3, 1e-3": (1e-3, 1e-3), "1.3e-6, 1e-5": (1.3e-6, 1e-5)}
REAL_ROWS = (16, 16, 11)


def course(trainer: NumpyTrainer, devices: int) -> dict[str, np.ndarray]:
    """What a test can look at: the first gradient, each loss, then logits and parameters."""
    case = main_case(trainer.capabilities)
    rng = np.random.default_rng(0)
    start = start_params(case, rng)
    batches = [batch_of(case, rng, real=real) for real in REAL_ROWS]
    trainer.start(case, start, devices)
    seen = {f"gradient of {name}": np.asarray(leaf) for name, leaf in trainer.gradients(batches[0]).items()}
    seen["losses"] = np.array([trainer.step(batch).loss for batch in batches])
    seen["logits"] = np.asarray(trainer.evaluate(batches[0]))
    return seen | {name: np.array(leaf) for name, leaf in trainer.params().items()}


def close(got: dict[str, np.ndarray], want: dict[str, np.ndarray], tolerance: tuple[float, float]) -> bool:
    """Whether `allclose` passes everything."""
    rtol, atol = tolerance
    return all(np.allclose(got[name], leaf, rtol=rtol, atol=atol, equal_nan=True) for name, leaf in want.items())


def main() -> int:
    """Run, compare, tell."""
    right = course(NumpyTrainer(), trainers.DEVICES)
    assert close(right, course(NumpyTrainer(), 1), (1e-12, 1e-12)), "the right trainer depends on the device count"
    missed: dict[str, list[str]] = {}
    faults = trainers.seeded_ids()
    for fault in faults:
        wrong = {n: course(trainers.trainer(fault), n) for n in (1, trainers.DEVICES)}
        for said, tolerance in TOLERANCES.items():
            for how, other in (("two trainers that share it", wrong[1]), ("allclose to a right one", right)):
                names = missed.setdefault(f"{how} ({said})", [])
                if close(wrong[trainers.DEVICES], other, tolerance):
                    names.append(fault)
    print(f"of {len(faults)} faults seeded in a trainer, missed by\n\n| comparison (rtol, atol) | missed | which |")
    print("|---|---|---|")
    for how, names in missed.items():
        print(f"| {how} | {len(names)} | {', '.join(names)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
