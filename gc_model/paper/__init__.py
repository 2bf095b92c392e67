# SPDX-License-Identifier: Apache-2.0
"""The network of the paper. Read in this order: presets, trunk, depthwise, glimpse, memory, workers, network, clouds,
variants, losses.
"""
