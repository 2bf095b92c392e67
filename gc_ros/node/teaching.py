# SPDX-License-Identifier: Apache-2.0
"""Teaching a running node: somebody shows an activity to a camera, and the recognisers know it from then on.

What is taught lies in a folder beside the bundle. The examples are taken in the inference thread, the discriminant is
made in a thread of its own, and the executor's thread waits for neither.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.node.camera import Camera
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.intake import StepFrame
from gc_ros.recognition.kept_clips import forget_clips, keep_clips
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.region import Person
from gc_ros.recognition.showing import Showing
from gc_ros.recognition.space import Space
from gc_ros.recognition.taught import Lessons, Taught, check_name, space_of
from gc_ros.recognition.taught_file import NAME, folder_of, load_lessons, locked, read_taught, write_taught
from trt_build.bundle import LoadedBundle
from trt_build.errors import DataError, GlimpseError

SECONDS = 10.0  # of showing, where a request says nothing
_PATIENCE = 30.0  # s, and three times what the windows last: so long a request for windows waits


class Teaching:
    """What a configured node was taught, and how it is taught more.

    where: the parameter `taught`. setting: the value of a parameter of the node. told: called when what is taught has
    changed. Raises GlimpseError where what lies in the folder cannot be used.
    """

    def __init__(
        self, bundle: LoadedBundle, where: str, setting: Callable[[str], Any], told: Callable[[], None]
    ) -> None:
        self._bundle, self._setting, self._told = bundle, setting, told
        self._off = where == "none"
        self.folder = Path(where) if where and not self._off else folder_of(bundle.path)
        self._space: Space | None = None
        # A folder that is named need not be there yet: teaching makes it.
        named = where if self._off or (self.folder / NAME).exists() else ""
        self.lessons = load_lessons(bundle, named or ("none" if where else None))
        self.taught = (
            Taught(bundle.info.model_id) if self._off else read_taught(self.folder, bundle.info.model_id)
        )
        self._showing: Showing | None = None
        self._worker = ThreadPoolExecutor(1, "teaching")
        self._closed = False

    @property
    def progress(self) -> str:
        """For /diagnostics."""
        now = self._showing
        if now is None:
            return "none"
        of = f" of {now.windows}" if now.windows < _ENDLESS else ""
        return f"{now.name}: {now.taken}{of} windows"

    async def teach(self, request: Any, response: Any, cameras: Sequence[Camera]) -> Any:
        """Answer ~/teach once the activity was shown and the recognisers know it."""
        try:
            camera = self._camera(cameras, request.camera)
            shower = _shower(camera, request.person)
            name = "none of these" if request.none else check_name(request.name, self._bundle)
            if self._off:
                raise DataError("teaching is off: the parameter taught is none")
            if self._showing is not None:
                raise DataError(f'"{self._showing.name}" is being taught; wait until that is done')
            if not 0 <= request.seconds <= 600:
                raise DataError(f"seconds is {request.seconds:g}; show an activity for at most 600 s")
            space_of_bundle = self._space or await self._work(lambda: space_of(self._bundle))
            self._space = space_of_bundle
            showing = await self._watch(name, camera, shower, request)
            count = await self._work(lambda: self._learn(name, showing, bool(request.none), space_of_bundle))
            self._apply(cameras)
            pictures = [] if request.none else showing.pictures()
            remark = await self._work(lambda: self._keep(name, pictures)) if pictures else ""
            response.success, response.message = True, count[2] + remark
            response.clips, response.windows = count[0], count[1]
        except GlimpseError as error:
            response.success, response.message = False, str(error)
        return response

    def forget(self, request: Any, response: Any, cameras: Sequence[Camera]) -> Any:
        """Answer ~/forget."""
        try:
            with locked(self.folder):
                after = read_taught(self.folder, self._bundle.info.model_id).forgotten(request.name)
                lessons = self._lessons(after, self._space or space_of(self._bundle))
                write_taught(self.folder, after)
                forget_clips(self.folder, request.name)
            self.taught, self.lessons = after, lessons
            self._apply(cameras)
            response.success, response.message = True, f"{request.name}: forgotten"
        except GlimpseError as error:
            response.success, response.message = False, str(error)
        return response

    def close(self) -> None:
        """Let what is being taught go; its request is answered that it was not."""
        self._closed = True
        self._worker.shutdown(wait=False)

    def _camera(self, cameras: Sequence[Camera], name: str) -> Camera:
        known = {camera.name: camera for camera in cameras}
        if name and name not in known:
            raise DataError(f'no camera "{name}"; there are: {", ".join(known) or "none"}')
        return known[name] if name else cameras[0]

    async def _watch(
        self, name: str, camera: Camera, recognizers: Sequence[Recognizer], request: Any
    ) -> Showing:
        """What the camera sees from now on, as many windows or as long as the request says.

        recognizers: of which one sees who shows it.
        """
        windows = int(request.windows) or _ENDLESS
        info = self._bundle.info
        seconds = request.seconds or (
            _PATIENCE + 3 * info.window_s * windows if request.windows else max(SECONDS, 2 * info.window_s)
        )
        showing = Showing(name, windows, recognizers[0].max_frame_gap_s)

        def is_shower(person: Person | None) -> bool:
            return (person.id if person is not None else "") == request.person

        def see(activity: Activity) -> None:
            if activity.features is not None and is_shower(activity.person):
                showing.see(activity.features, activity.window_start_ns, activity.window_end_ns)

        def see_frame(frame: StepFrame) -> None:
            if is_shower(frame.person):
                showing.see_frame(frame)

        self._showing, camera.watching = showing, see
        if self._setting("keep_clips"):
            for recognizer in recognizers:
                recognizer.watch(see_frame)
        deadline = time.monotonic() + seconds
        try:
            while not showing.complete and time.monotonic() < deadline and not self._closed:
                await _Later()
        finally:
            self._showing, camera.watching = None, None
            for recognizer in recognizers:
                recognizer.watch(None)
        if self._closed:
            raise DataError(f'the node stopped while "{name}" was shown; nothing was taught')
        return showing

    def _learn(self, name: str, showing: Showing, none: bool, space: Space) -> tuple[int, int, str]:
        """Keep what was shown; returns its clips, its windows, and what is to be said about it."""
        examples = showing.examples()
        with locked(self.folder):
            before = read_taught(self.folder, self._bundle.info.model_id)
            after = before.with_none(examples) if none else before.taught(name, examples)
            lessons = self._lessons(after, space)
            write_taught(self.folder, after)
        self.taught, self.lessons = after, lessons
        kept = after.none if none else after.activities[name]
        assert kept is not None
        remarks = [] if none or lessons is None else lessons.remarks(name, after)
        text = "; ".join([f"{name}: {kept.count} clips, {len(kept)} windows", *remarks])
        return kept.count, len(kept), text

    def _keep(self, name: str, pictures: Sequence[NDArray[np.uint8]]) -> str:
        """Keep the clips of an activity that was learned; returns what is to be said about it."""
        try:
            with locked(self.folder):
                # Somebody may have had it forgotten since.
                if name in read_taught(self.folder, self._bundle.info.model_id).activities:
                    keep_clips(self.folder, name, pictures, self._bundle.info.rate_hz)
        except GlimpseError as error:
            return f"; its clips were not kept: {error}"
        return ""

    def _lessons(self, taught: Taught, space: Space) -> Lessons | None:
        return Lessons(self._bundle, space, taught) if taught.activities else None

    def _apply(self, cameras: Sequence[Camera]) -> None:
        for camera in cameras:
            camera.recognizer.lessons = self.lessons
            if camera.people is not None:
                camera.people.people.lessons = self.lessons
        self._told()

    async def _work(self, job: Callable[[], Any]) -> Any:
        """The result of a job that would hold the executor's thread up."""
        running = self._worker.submit(job)
        while not running.done():
            await _Later()
        return running.result()


_ENDLESS = 1 << 20


def _shower(camera: Camera, person: str) -> list[Recognizer]:
    """The recognisers of which one sees a person, or that of the picture for "". Raises DataError."""
    if not person:
        return [camera.recognizer]
    if camera.people is None:
        raise DataError("nobody is recognised alone here; set the parameter people, or leave person empty")
    people = camera.people.people
    if person not in people.present:
        there = ", ".join(sorted(people.present)) or "nobody"
        raise DataError(f'nobody "{person}" is recognised now; there are: {there}')
    return list(people.recognizers.values())


class _Later(Awaitable[None]):
    """Comes back when the executor has served something else: a timer fires ten times a second."""

    def __await__(self) -> Generator[None, None, None]:
        yield
