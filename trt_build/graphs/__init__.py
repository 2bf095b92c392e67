# SPDX-License-Identifier: Apache-2.0
"""Changes to ONNX graphs on their way to an engine: passes, precision, INT8, shared weights."""
