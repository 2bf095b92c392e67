# SPDX-License-Identifier: Apache-2.0
"""The networks of the paper.

Read in this order: presets, trunk, inflated, depthwise, glimpse, memory, workers, network, clouds, variants, losses.
"""
