# SPDX-License-Identifier: Apache-2.0
"""Recorded messages of rosbag2 (MCAP, sqlite3, split, zstd) and ROS 1 bags, damaged ones included.

Libraries stop at the first thing that is wrong with a file. A robot that lost power leaves an MCAP file without
index, with half a chunk at its end, and no metadata.yaml; all but that half is good. `Recording` reads what there is;
what was left out stands in `Recording.damage`, one line a place.
"""

from gc_ros.media.recording.bag import Message, Recording
from gc_ros.media.recording.storage import SET_BACK

__all__ = ["SET_BACK", "Message", "Recording"]
