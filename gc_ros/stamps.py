# SPDX-License-Identifier: Apache-2.0
"""Stamps are integers of nanoseconds, as ROS headers give them; a duration inside the package is seconds, a float."""

from __future__ import annotations

NS = 1_000_000_000  # in a second
