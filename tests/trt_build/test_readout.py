# SPDX-License-Identifier: Apache-2.0
"""The read-out over time equals the network's own."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from trt_build.readout import read_out


def test_the_window_has_the_mean_of_its_frames_in_float32() -> None:
    y = deque([np.array([1.0, -2.0], np.float32), np.array([4.0, 2.0], np.float32)], maxlen=2)
    np.testing.assert_array_equal(read_out(y), np.array([2.5, 0.0], np.float32))
    assert read_out(y).dtype == np.float32


def test_it_is_the_read_out_of_the_network_that_was_trained() -> None:
    torch = pytest.importorskip("torch")
    from tests.gc_model.nets import build, noise

    with torch.no_grad():
        result = build()(noise(1, 8, 64))
    y = result.frame_logits[0].float().numpy()
    np.testing.assert_allclose(read_out(y), result.logits[0].numpy(), rtol=0, atol=1e-6)
