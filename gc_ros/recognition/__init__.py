# SPDX-License-Identifier: Apache-2.0
"""The recogniser: images and stamps in, activities out. No ROS type enters."""
