# SPDX-License-Identifier: Apache-2.0
"""ONNX graphs changed on their way to an engine: passes, precision, INT8, shared weights."""
