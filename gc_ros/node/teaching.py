# SPDX-License-Identifier: Apache-2.0
"""Teaching a running node: somebody shows an activity to a camera, and the recognisers know it from then on.

What is taught lies in a folder beside the bundle. The examples are taken in the inference thread, the discriminant is
made in a thread of its own, and the executor's thread waits for neither.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gc_ros.node.camera import Camera
from gc_ros.node.stopwatch import Stopwatch
from gc_ros.node.worker import Worker
from gc_ros.recognition.activity import Activity
from gc_ros.recognition.intake import StepFrame
from gc_ros.recognition.kept_clips import forget_clips, keep_clips, name_of_clips
from gc_ros.recognition.recognizer import Recognizer
from gc_ros.recognition.region import Person
from gc_ros.recognition.showing import Showing
from gc_ros.recognition.space import Space
from gc_ros.recognition.taught import MAX_WINDOWS, Lessons, Taught, check_name, check_taught, space_of
from gc_ros.recognition.taught_file import (
    NAME,
    check_place,
    folder_of,
    load_lessons,
    locked,
    must_hold,
    read_taught,
    sweep,
    write_taught,
)
from trt_build.bundle import LoadedBundle
from trt_build.command import counted
from trt_build.errors import DataError, one_line

SECONDS, SECONDS_MOST = 10.0, 600.0  # of showing, where a request says nothing; and whatever it says
# s, and three times what the windows last: so long a request for windows waits. So long /clock may stand still, too.
_PATIENCE = 30.0
_CLOSING_S = 2.0  # what is under way when the node is cleaned up is waited for so long


class Teaching:
    """What a configured node was taught, and how it is taught more.

    where: the parameter `taught`. setting: the value of a parameter of the node. clock: of the node. told: called when
    what is taught has changed. Raises GlimpseError where what lies in the folder cannot be used.
    """

    def __init__(
        self,
        bundle: LoadedBundle,
        where: str,
        setting: Callable[[str], Any],
        clock: Any,
        told: Callable[[], None],
    ) -> None:
        self._bundle, self._setting, self._clock, self._told = bundle, setting, clock, told
        self._off = where == "none"
        self.folder = Path(where) if where and not self._off else folder_of(bundle.path)
        self._space: Space | None = None
        # A folder that is named need not be there yet: teaching makes it.
        named = where if self._off or (self.folder / NAME).exists() else ""
        lessons = load_lessons(bundle, named or ("none" if where else None))
        taught = Taught(bundle.info.model_id) if self._off else read_taught(self.folder, bundle.info.model_id)
        # One value: the worker's thread exchanges it, the executor's reads it.
        self._known: tuple[Taught, Lessons | None] = taught, lessons
        self._name = ""  # of what is being taught, from the request to its answer
        self._showing: Showing | None = None
        self._ended = ""  # why what was being shown no longer is
        self._closed_s: float | None = None
        self._worker = Worker("teaching")

    @property
    def taught(self) -> Taught:
        """What is taught now."""
        return self._known[0]

    @property
    def lessons(self) -> Lessons | None:
        """The same as recognisers take it; None: nothing."""
        return self._known[1]

    @property
    def progress(self) -> str:
        """For /diagnostics."""
        now = self._showing
        if now is None:
            return f"{self._name}: being learned" if self._name else "none"
        of = f" of {now.windows}" if now.windows < _ENDLESS else ""
        return f"{now.name}: {now.taken}{of} windows"

    async def teach(self, request: Any, response: Any, cameras: Sequence[Camera]) -> Any:
        """Answer ~/teach once the activity was shown and the recognisers know it."""
        return await _answered(response, self._teach(request, response, cameras))

    async def forget(self, request: Any, response: Any, cameras: Sequence[Camera]) -> Any:
        """Answer ~/forget once the recognisers no longer know it."""
        return await _answered(response, self._forget(request, response, cameras))

    def end(self, why: str) -> None:
        """Let what is being shown go; its request is answered that it was not taught, and why."""
        self._ended = why

    def close(self) -> None:
        """Let what is being taught go, as far as it is not kept yet."""
        self.end("the node was cleaned up")
        self._closed_s = time.monotonic()
        self._worker.close()

    async def _teach(self, request: Any, response: Any, cameras: Sequence[Camera]) -> None:
        camera = self._camera(cameras, request.camera)
        if not camera.enabled:
            raise DataError("the camera is disabled: nothing is seen; enable it first, by ~/enable")
        shower = _shower(camera, request.person)
        name = "none of these" if request.none else check_name(request.name, self._bundle)
        self._check_on()
        if self._name:
            raise DataError(f'"{self._name}" is being taught; wait until that is done')
        if not 0 <= request.seconds <= SECONDS_MOST:
            raise DataError(
                f"seconds is {request.seconds:g}; give 0 for the usual, or up to {SECONDS_MOST:g}"
            )
        if request.windows > MAX_WINDOWS:
            raise DataError(
                f"windows is {request.windows}; of an activity at most {MAX_WINDOWS} are kept: ask for fewer"
            )
        # Before anything is waited for: another request is refused from now on.
        self._name, self._ended = name, ""
        try:
            space = self._space = self._space or await self._work(lambda: space_of(self._bundle))
            await self._work(lambda: check_place(self.folder))  # not after all was shown
            showing, changed = await self._watch(name, camera, shower, request)
            count = await self._work(lambda: self._learn(name, showing, bool(request.none), space))
            self._apply(cameras)
            # Frames show people: what is forbidden by now is not kept, however it was when they came.
            keep = self._setting("keep_clips") and not request.none
            pictures = showing.pictures() if keep else []
            remark = await self._work(lambda: self._keep(name, pictures)) if pictures else ""
        finally:
            self._name = ""
        response.success, response.message = True, count[2] + changed + remark
        response.clips, response.windows = count[0], count[1]

    async def _forget(self, request: Any, response: Any, cameras: Sequence[Camera]) -> None:
        self._check_on()
        own, now = await self._work(lambda: self._unlearn(request.name))
        self._apply(cameras)
        if now:
            raise DataError(f'"{own}" was renamed; what was shown is "{now}" now: forget that')
        response.success, response.message = True, f"{own}: forgotten"

    def _check_on(self) -> None:
        if self._off:
            raise DataError("teaching is off: the parameter taught is none")

    def _camera(self, cameras: Sequence[Camera], name: str) -> Camera:
        known = {camera.name: camera for camera in cameras}
        if name and name not in known:
            raise DataError(f'no camera "{name}"; there are: {", ".join(known) or "none"}')
        return known[name] if name else cameras[0]

    async def _watch(
        self, name: str, camera: Camera, recognizers: Sequence[Recognizer], request: Any
    ) -> tuple[Showing, str]:
        """What the camera sees from now on, as many windows or as long as the request says; and what is to be said.

        recognizers: of which one sees who shows it.
        """
        windows = int(request.windows) or _ENDLESS
        info = self._bundle.info
        seconds = request.seconds or (
            min(_PATIENCE + 3 * info.window_s * windows, SECONDS_MOST)
            if request.windows
            else max(SECONDS, 2 * info.window_s)
        )
        if seconds < info.window_s:
            raise DataError(f"a window of this model takes {info.window_s:g} s: give at least these seconds")
        gap_s = recognizers[0].max_frame_gap_s
        showing = Showing(name, windows, gap_s, keep=lambda: bool(self._setting("keep_clips")))

        stretches: list[int] = []  # of who has the id: the first is who shows it, any other is somebody else

        def see(activity: Activity) -> None:
            if activity.features is not None and _id_of(activity.person) == request.person:
                # A frame of somebody else was not shown, so that no window of theirs counts.
                showing.see(activity.features, activity.window_start_ns, activity.window_end_ns)

        def see_frame(frame: StepFrame) -> None:
            if _id_of(frame.person) != request.person:
                return
            stretch = 0 if frame.person is None else frame.person.stretch
            if stretch not in stretches:
                stretches.append(stretch)
            if stretch == stretches[0]:
                showing.see_frame(frame)

        self._showing, camera.watching = showing, see
        for recognizer in recognizers:
            recognizer.watch(see_frame)
        watch = Stopwatch(self._clock)
        try:
            while not showing.complete and not self._ended:
                if watch.seconds() >= seconds or watch.still_s > _PATIENCE:
                    break
                await _Later()
        finally:
            self._showing, camera.watching = None, None
            for recognizer in recognizers:
                recognizer.watch(None)
        if self._ended:
            raise DataError(f'{self._ended} while "{name}" was shown; nothing was taught')
        remark = f"; {request.person} became somebody else, who was left out" if len(stretches) > 1 else ""
        if watch.still_s > _PATIENCE:
            remark += "; /clock stood still, and nothing more was watched"
        if request.windows and not showing.complete:
            remark += f"; only {showing.taken} of {windows} windows were seen in {watch.seconds():.0f} s"
        return showing, remark

    def _learn(self, name: str, showing: Showing, none: bool, space: Space) -> tuple[int, int, str]:
        """Keep what was shown; returns its clips, its windows, and what is to be said about it."""
        examples = showing.examples()
        with locked(self.folder):
            before = read_taught(self.folder, self._bundle.info.model_id)
            check_taught(before, self._bundle, self.folder)
            after = before.with_none(examples) if none else before.taught(name, examples)
            lessons = self._lessons(after, space)
            if self._closed_s is not None:
                raise DataError(f'the node was cleaned up before "{name}" was learned; nothing was taught')
            write_taught(self.folder, after)
        self._known = after, lessons
        name = name if none else after.spelled(name)
        kept = after.none if none else after.activities[name]
        assert kept is not None
        remarks = [] if none or lessons is None else lessons.remarks(name, after)
        text = "; ".join([f"{name}: {counted(kept.count, 'clip')}, {counted(len(kept), 'window')}", *remarks])
        return kept.count, len(kept), text

    def _unlearn(self, name: str) -> tuple[str, str | None]:
        """Forget an activity, and its clips; returns its name, and that which somebody else has given it, if so.

        What others changed in the folder meanwhile holds from now on, too.
        """
        renamed = None
        if name_of_clips(self.folder, name) is None:
            must_hold(self.folder)
        with locked(self.folder):
            sweep(self.folder)
            after = read_taught(self.folder, self._bundle.info.model_id)
            kept = name_of_clips(self.folder, name)
            own = after.holds(name) or kept
            if after.holds(name) is not None:
                after = after.forgotten(name)
            elif kept is None:
                own = self.taught.holds(name) or after.spelled(name)
                # Else somebody else had it forgotten, or gave it another name.
                shown = self.taught.activities.get(own)
                same = (n for n, e in after.activities.items() if shown is not None and e.shares(shown))
                renamed = next(same, None)
            lessons = self._lessons(after, self._space or space_of(self._bundle))
            # Clips go first: a kill may leave an activity without them, never people's pictures without an activity.
            if kept is not None:
                forget_clips(self.folder, kept)
            write_taught(self.folder, after)
            self._known = after, lessons
        return own or name, renamed

    def _keep(self, name: str, pictures: Sequence[NDArray[np.uint8]]) -> str:
        """Keep the clips of an activity that was learned; returns what is to be said about it."""
        try:
            with locked(self.folder):
                # Somebody may have had it forgotten since.
                own = read_taught(self.folder, self._bundle.info.model_id).like(name)
                if own is not None:
                    info = self._bundle.info
                    keep_clips(self.folder, own, pictures, info.rate_hz, info.preprocess.resize)
        except DataError as error:
            return f"; its clips were not kept: {error}"
        return ""

    def _lessons(self, taught: Taught, space: Space) -> Lessons | None:
        return Lessons(self._bundle, space, taught, self.folder) if taught.activities else None

    def _apply(self, cameras: Sequence[Camera]) -> None:
        """Let the recognisers know. After `close` there are none: they read it when the node is configured again."""
        if self._closed_s is not None:
            return
        for camera in cameras:
            camera.recognizer.lessons = self.lessons
            if camera.people is not None:
                camera.people.people.lessons = self.lessons
            # Before the labels change: the events count in those of before.
            camera.tell_what_ended()
        self._told()

    async def _work(self, job: Callable[[], Any]) -> Any:
        """The result of a job that would hold the executor's thread up. Raises DataError after `close`."""
        running = self._worker.submit(job)
        while not running.done():
            if self._closed_s is not None and time.monotonic() > self._closed_s + _CLOSING_S:
                raise DataError(
                    "the node was cleaned up before that was done; ~/taught lists what is known when it is "
                    "configured again"
                )
            await _Later()
        return running.result()


_ENDLESS = 1 << 20


def _id_of(person: Person | None) -> str:
    """The id, or nothing for the whole picture."""
    return "" if person is None else person.id


async def _answered(response: Any, work: Coroutine[Any, Any, None]) -> Any:
    """The response once `work` has filled it in, or with what it raised: no request ends the node."""
    try:
        await work
    except Exception as error:
        response.success, response.message = False, one_line(error)
    return response


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
