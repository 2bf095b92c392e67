# SPDX-License-Identifier: Apache-2.0
"""The recogniser (no ROS, no torch), the node around it (rclpy), videos and bags."""

import trt_build  # noqa: F401  (its limits hold before cv2 is imported)
