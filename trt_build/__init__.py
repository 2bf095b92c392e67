# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to bundle to engine, and what runs an engine. Only `gc_model.export.onnx` may import torch."""
