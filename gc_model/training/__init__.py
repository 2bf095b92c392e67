# SPDX-License-Identifier: Apache-2.0
"""Training: options, stages, streams, and the run directory they fill."""
