"""RTMPose-t with random weights, and running statistics that are not those of no picture."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from converters.architectures.rtmpose import RTMPose  # noqa: E402


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    model = RTMPose("t")
    # One training-mode pass: batch norm statistics that folding has to take into account.
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 256, 192))
    return model.eval()
