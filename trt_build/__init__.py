# SPDX-License-Identifier: Apache-2.0
"""Checkpoint to bundle to engine, and what runs an engine. No torch here: `gc_model.export` writes bundles."""

import os

# Behind the checks of image headers, OpenCV's own. It reads the variable once, when cv2 is first imported, which
# nothing here does before this package: gc_ros and gc_model import it first of all.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))
# NumPy's threads wait by turning in circles. Beside an engine's, on a few cores, that makes the small products of what
# is taught ten times as slow. Read once as well, when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
