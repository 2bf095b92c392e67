# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 node. The only folder that imports rclpy."""
