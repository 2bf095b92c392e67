# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to bundle to engine, and what runs an engine. Only `trt_build.export` may import torch."""
