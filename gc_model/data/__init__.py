# SPDX-License-Identifier: Apache-2.0
"""Clips on disk to training and test samples."""
