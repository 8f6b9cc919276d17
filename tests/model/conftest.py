"""A tiny model and its tensors under a checkpoint's names, which the tests of this folder share."""

import numpy as np
import pytest
from checkpoints import tiny_model

from sftref.model.names import to_hf
from sftref.model.pretrained import Pretrained


@pytest.fixture(scope="module")
def tiny() -> Pretrained:
    return tiny_model()


@pytest.fixture(scope="module")
def flat(tiny: Pretrained) -> dict[str, np.ndarray]:
    return to_hf(tiny.params)
