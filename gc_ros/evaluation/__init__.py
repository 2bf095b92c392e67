# SPDX-License-Identifier: Apache-2.0
"""Bags and videos through the robot's recogniser, scored against what was really done. No rclpy, no torch.

sources  what there is to evaluate, and its frames      truth    what was really done when
running  one bag through the recogniser                 scoring  figures from windows.jsonl
many     many bags: processes, Dask, resume             report, predictions, compare: what comes out
"""
