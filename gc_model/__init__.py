# SPDX-License-Identifier: Apache-2.0
"""Glimpse Clouds (Baradel, Wolf, Mille, Taylor, CVPR 2018): the paper's model, its training and evaluation.

This package is where torch lives; importing the package itself does not import torch, so that
`gc_model.synth` and `gc_model.paper.presets` work on a machine without it.
"""

import trt_build  # noqa: F401  (its limits hold before cv2 is imported)
