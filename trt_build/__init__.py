# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to bundle to engine, and what runs an engine. No torch here: `gc_model.export` writes bundles."""

import os

# Behind the checks of image headers, OpenCV's own. It reads the variable once, when cv2 is first imported, which
# nothing here does before this package: gc_ros and gc_model import it first of all.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))
