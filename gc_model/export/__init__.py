# SPDX-License-Identifier: Apache-2.0
"""A trained run to a bundle: folding, ONNX, and the network behind the `Engine` protocol."""
