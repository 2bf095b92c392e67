# SPDX-License-Identifier: Apache-2.0
"""What a trained run is worth: accuracy, ablations, calibration, glimpses, curves."""
