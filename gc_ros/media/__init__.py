# SPDX-License-Identifier: Apache-2.0
"""Clips, videos, images and bags as they come from disk or from a topic."""
