# SPDX-License-Identifier: Apache-2.0
"""From a trained run to a bundle: folding, ONNX, and the network as an `Engine`."""
