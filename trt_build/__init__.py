# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to bundle to engine, and what runs an engine. No torch here: `gc_model.export` writes bundles."""
