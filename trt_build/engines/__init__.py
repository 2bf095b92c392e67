# SPDX-License-Identifier: Apache-2.0
"""The backends behind the `Engine` protocol, and what opens and compiles them."""

import sys

# OpenVINO sends an event to a server while it is imported, from a fork of this process. Nothing here uses the network:
# without the module that does it OpenVINO takes its own stand-in, as it does where that is not installed.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
