# SPDX-License-Identifier: Apache-2.0
"""Where the images of one camera come in: its subscription, the way from message to picture, and what was refused.

In which messages images come is a row of the table in `gc_ros.media.transports`. All but raw images are decoded in a
thread of their camera, see `decoding`.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import qos_policy_name_from_kind, qos_profile_sensor_data

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

from gc_ros.media.images import Picture, Refusal, Waiting
from gc_ros.media.transports import BY_NAME, Transport
from gc_ros.node import graph, ros_messages
from gc_ros.node.decoding import PACKETS, WAITING, Decoding
from gc_ros.node.diagnostics import REFUSED_S, STAMPS_S, Recent
from gc_ros.stamps import NS


def simulation_begins(node: LifecycleNode) -> bool:
    """Whether a node's time is simulated and at its begin, also again: zero is a stamp then, and none elsewhere."""
    return bool(node.get_parameter("use_sim_time").value) and int(node.get_clock().now().nanoseconds) < NS


@dataclass(frozen=True)
class Arrived:
    """An image message as the executor took it."""

    message: Any
    stamp_ns: int
    began: float  # time.perf_counter
    asked: int  # resets asked for until then: a later one makes the image void


class Input:
    """raw: the name of the raw topic. setting: the value of a parameter of the node.

    offer: gets each picture, with the message it came in and the seconds that reading that took, in the executor's
    thread or in that which decodes. asked: how many resets have been asked for.
    """

    def __init__(
        self,
        node: LifecycleNode,
        raw: str,
        setting: Callable[[str], Any],
        offer: Callable[[Arrived, Picture, float], None],
        asked: Callable[[], int],
    ) -> None:
        self._node, self._offer, self._asked = node, offer, asked
        self.transport: Transport = BY_NAME[setting("image_transport")]
        self._type = ros_messages.message_type(self.transport)
        self._reader = self.transport.reader(True)
        self.remap = f"{raw}{self.transport.suffix}"  # the topic's name in a remapping
        self._name = graph.topic_of(node, raw, self.transport.suffix)
        self.topic = node.resolve_topic_name(self._name)
        self._subscription: Any = None
        self._decoding: Decoding | None = None
        if self.transport.decoded:
            budget = lambda: float(setting("decode_budget"))
            most = PACKETS if self.transport.stateful else WAITING
            self._decoding = Decoding(self._take_safely, self._miss, budget, most)
        self._refusing = threading.Lock()
        self._arrival: float | None = None
        self.stalled = False
        self.incompatible: str | None = None  # QoS policy
        self.image_bytes = 0
        # unusable: packets of a stream before a key frame.
        self.received = self.refused = self.unusable = self.zero_stamps = 0
        self.waiting_since: float | None = None  # for a key frame, by time.monotonic
        self.first_refusal: str | None = None
        self._unstamped = False  # whether the last image had no stamp
        self.lately = {
            "received": Recent(REFUSED_S),
            "refused": Recent(REFUSED_S),
            "zero stamp": Recent(STAMPS_S),
        }

    # -- life ------------------------------------------------------------------------------------------------

    def subscribe(self) -> None:
        """Take images from now on."""
        self._arrival = time.monotonic()
        self.stalled, self.incompatible = False, None
        self.waiting_since = None
        self._reader.lost()  # what came in between
        self._subscription = self._node.create_subscription(
            self._type,
            self._name,
            self._on_image,
            # rclpy writes overrides into the profile it is given: without a copy one camera's would be every other's.
            copy.copy(qos_profile_sensor_data),
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos),
            qos_overriding_options=graph.overridable(),
        )

    def unsubscribe(self) -> None:
        """Take no more images."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def _on_incompatible_qos(self, event: Any) -> None:
        self.incompatible = qos_policy_name_from_kind(event.last_policy_kind)

    def judge_qos(self, publishers: int, reliable_enough: bool) -> None:
        """Whether a publisher's quality of service is why no image comes, by those that are there now."""
        if not publishers:
            self.incompatible = None
        elif not reliable_enough:
            self.incompatible = "RELIABILITY"
        elif self.incompatible == "RELIABILITY":  # that publisher has gone, or another one fits
            self.incompatible = None

    @property
    def silent_s(self) -> float | None:
        """Seconds since the last image, or since the subscription; None without one."""
        if self._subscription is None or self._arrival is None:
            return None
        return time.monotonic() - self._arrival

    def clear(self) -> None:
        """Forget images that wait to be decoded."""
        # Packets of a stream are decoded all the same, since the next ones build on them; their images are void.
        if self._decoding is not None and not self.transport.stateful:
            self._decoding.clear()

    def destroy(self) -> None:
        """Remove the topic from the graph."""
        self.unsubscribe()
        if self._decoding is not None:
            self._decoding.stop()

    # -- from message to picture ---------------------------------------------------------------------------

    def _on_image(self, message: Any) -> None:
        # An exception here would end the node's spin: whatever it is, it costs this image only.
        try:
            arrived = self._arrived(message)
        except Exception as error:
            self._miss(f"unexpected {type(error).__name__}: {error}")
            return
        if arrived is None:
            return
        if self._decoding is not None:
            self._decoding.put(arrived)
        else:
            self._take_safely(arrived)

    def _arrived(self, message: Any) -> Arrived | None:
        """Note that an image has come; None where nobody wants it any more."""
        if self._subscription is None:  # taken by the executor before the subscription went
            return None
        began = time.perf_counter()
        self._arrival = time.monotonic()
        self.received += 1
        self.lately["received"].add()
        self.image_bytes = len(message.data)
        self.incompatible = None  # what is silent from now on did offer it
        if self.stalled:
            self.stalled = False
            self._node.get_logger().info(f"images on {self.topic} again")
        wrong_stamp = self.transport.refuse_stamp(message)
        if wrong_stamp:
            self._miss(wrong_stamp)
            return None
        return Arrived(message, self._stamp(message), began, self._asked())

    def _take_safely(self, arrived: Arrived) -> None:
        try:
            self._take(arrived)
        except Exception as error:
            if arrived.asked == self._asked():  # else it was stopped in the midst, and may be destroyed
                self.refuse(f"unexpected {type(error).__name__}: {error}")

    def _take(self, arrived: Arrived) -> None:
        """Decode a message, and take the images that are complete now: of a stream with B-frames an earlier one's."""
        began = time.perf_counter()
        found = self._reader.read(arrived.message, arrived)
        decode_s = time.perf_counter() - began
        for source, picture in found:
            if isinstance(picture, Waiting):
                self._wait(picture.reason)
            elif isinstance(picture, Refusal):
                self.refuse(picture.reason)
            else:
                self._offer(source, picture, decode_s)
        # Not once a packet is given up: a decoder may hold many before it is known that they give no image.
        self.waiting_since = (self.waiting_since or time.monotonic()) if self._reader.waiting else None

    def _wait(self, reason: str) -> None:
        """A packet came that is of no use before the next key frame."""
        self.unusable += 1
        self._node.get_logger().warning(f"{self.topic}: {reason}", throttle_duration_sec=10.0)

    def _stamp(self, message: Any) -> int:
        stamp_ns = self.transport.stamp_ns(message)
        alone, self._unstamped = not self._unstamped, stamp_ns == 0
        if stamp_ns != 0:
            return stamp_ns
        if alone and simulation_begins(self._node):
            return 0
        if not self.zero_stamps:
            self._node.get_logger().warning(
                f"images on {self.topic} have no stamp; their arrival time is used"
            )
        self.zero_stamps += 1
        self.lately["zero stamp"].add()
        # Under simulated time without /clock the node's clock stands at zero.
        return int(self._node.get_clock().now().nanoseconds) or time.time_ns()

    def _miss(self, reason: str) -> None:
        """A message is passed over, so those that build on it are of no use."""
        self._reader.lost()
        self.refuse(reason)

    def refuse(self, reason: str) -> None:
        """Count an image that cannot be used, and say why. From any thread."""
        with self._refusing:  # by the executor and by the thread that decodes
            self.refused += 1
            self.first_refusal = self.first_refusal or reason
            self.lately["refused"].add(remark=reason)
        self._node.get_logger().warning(
            f"image on {self.topic} dropped: {reason}", throttle_duration_sec=10.0
        )
