# SPDX-License-Identifier: Apache-2.0
"""Bags and videos through the robot's recogniser, scored against what was really done. No rclpy, no torch.

One bag:    sources -> reading (the recogniser) -> judging (truth, alignment) -> record, all called by running
Many bags:  commands -> many -> processes -> running; results knows where files lie
Figures:    scoring, segments -> answer, report, compare; predictions and strips are written while reading
"""
