# SPDX-License-Identifier: Apache-2.0
"""Several people in front of one camera: how old is a person's result, and is anybody starved?

    python benchmarks/people.py [--people 4] [--hz 15] [--seconds 30] [--bundle bundles/people] [--out FILE]
    python benchmarks/people.py --engine-ms 60 --people 16 --detector-ms 30

Age of a person's result p50 below 1.5 inference times; each person has at least 90 % of the results that are due. The
detector is a perfect one that answers `--detector-ms` after the image. A message that carries
detections in the tests stands in for vision_msgs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from rig import Clock, NodeProcess, harness, percentiles, report, toy

from gc_ros.node import ros_messages
from gc_ros.stamps import NS
from tests.gc_ros.node.carrier import DiagnosticArray, found_message
from tests.gc_ros.node.crowd import Drawn, PersonActivities, detections, picture
from trt_build.bundle import load_bundle

_CARRIER = """
from gc_ros.media import people_topics
from tests.gc_ros.node.carrier import ROW
people_topics.BY_NAME["detections"] = ROW
"""


class Listener:
    """Camera, detector and reader. found: by person and stamp, (age at the reader, age told, inference), seconds."""

    def __init__(self) -> None:
        harness.new_domain()
        self.peer = harness.Peer()
        self.found: dict[str, dict[int, tuple[float, float, float]]] = {}
        self.detector = self.peer.node.create_publisher(DiagnosticArray, "people", 10)
        self.peer.node.create_subscription(PersonActivities, f"{harness.NAME}/people", self._note, 100)

    def _note(self, message: Any) -> None:
        now = time.time_ns()
        for person in message.people:
            stamp = ros_messages.to_ns(person.window_end)
            results = self.found.setdefault(person.person_id, {})
            results.setdefault(stamp, ((now - stamp) / NS, person.age_s, person.inference_s))

    def wait(self) -> None:
        harness.wait_until(self.detector.get_subscription_count, "the node's people", 120)
        self.peer.wait_for_camera()

    def stream(self, people: list[Drawn], hz: float, seconds: float, detector_s: float) -> float:
        """Images and detections in a steady beat; how far this process fell behind it at worst, seconds."""
        images = [picture(people, frame, 640, 480) for frame in range(16)]
        clock = Clock(hz)
        for frame in range(round(hz * seconds)):
            clock.wait()
            stamp_ns = time.time_ns()
            self.peer.publish(images[frame % 16], stamp_ns)
            if detector_s:
                time.sleep(detector_s)
            self.detector.publish(found_message(detections(people, frame % 16, stamp_ns)))
        return clock.late_s


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--hz", type=float, default=15)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--mode", default="step")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--detector-ms", type=float, default=0)
    parser.add_argument("--max-people", type=int, help="default: as many as there are")
    parser.add_argument("--bundle", type=Path, default=harness.ROOT / "bundles" / "people")
    parser.add_argument("--engine-ms", type=float, default=0, help="a toy whose calls sleep so long, at 8 Hz")
    parser.add_argument("--out")
    options = parser.parse_args()
    bundle = toy(8.0) if options.engine_ms else options.bundle
    info = load_bundle(bundle).info
    colours = ("red", "green", "blue")
    people = [
        Drawn(
            str(i), colours[i % 3], colours[i % 3], x=60 + 70.0 * (i % 8), y=100 + 120.0 * (i // 8), speed=0.5
        )
        for i in range(options.people)
    ]
    listener = Listener()
    node = NodeProcess(
        bundle,
        options.engine_ms / 1e3,
        _CARRIER,
        people="detections",
        max_people=options.max_people or options.people,
        mode=options.mode,
        backend=options.backend,
        device=options.device,
        threads=0,
    )
    try:
        listener.wait()
        cpu_s, began = node.cpu_s(), time.monotonic()
        late_s = listener.stream(people, options.hz, options.seconds, options.detector_ms / 1e3)
        used = (node.cpu_s() - cpu_s) / (time.monotonic() - began)
        time.sleep(2)
    finally:
        node.close()
        listener.peer.close()
    results = [result for each in listener.found.values() for result in each.values()]
    if not results:
        said = {
            name: (status.message, {entry.key: entry.value for entry in status.values})
            for name, status in listener.peer.diagnostics.items()
        }
        print(node.output, said, file=sys.stderr)
        raise SystemExit("no result; see above what the node says")
    ages, told, inference = (np.array(column) for column in zip(*results, strict=True))
    counts = {person.id: len(listener.found.get(person.id, {})) for person in people}
    rate = min(info.rate_hz, options.hz)
    due = rate * options.seconds - info.T
    if options.mode == "step" and info.reset_after:
        due = rate * options.seconds / info.reset_after
    ratio = float(np.median(told) / np.median(inference))
    fair = min(counts.values()) >= 0.9 * due - 1
    figures = {
        "people": options.people, "hz": options.hz, "mode": options.mode, "backend": options.backend,
        "device": options.device, "bundle": info.model_id, "model_hz": info.rate_hz,
        "engine_ms": options.engine_ms, "detector_ms": options.detector_ms,
        "results": counts, "results_due": round(due, 1),
        "age_ms": percentiles(told.tolist()), "age_at_reader_ms": percentiles(ages.tolist()),
        "inference_ms": percentiles(inference.tolist()), "age_p50_in_inferences": round(ratio, 2),
        "cores_used": round(used, 2), "sender_late_ms": round(late_s * 1e3, 1),
        "age_ok": ratio < 1.5, "nobody_starved": fair,
    }  # fmt: skip
    report("people", figures, options.out)
    return 0 if ratio < 1.5 and fair else 1


if __name__ == "__main__":
    sys.exit(main())
