# SPDX-License-Identifier: Apache-2.0
"""Teaching and forgetting that are cut off, held up, or meet damaged files: answered, and the node serves on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from std_srvs.srv import SetBool

from tests.gc_ros.node.harness import NAME, Peer, Process, load_info, new_domain, running, wait_until  # isort: skip
from tests.gc_ros.node.showing import YELLOW, next_labels, seen, teach  # isort: skip

from glimpse_clouds.srv import Forget, Teach

from gc_ros.node import teaching
from gc_ros.recognition.kept_clips import keep_clips
from gc_ros.recognition.taught_file import folder_of, locked, read_taught
from tests.command_line import no_file_above
from tests.toy import toy_bundle
from trt_build.errors import DataError

pytestmark = [pytest.mark.ros, pytest.mark.slow]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy_bundle(tmp_path / "b", "colours", embedding=True).path


def known(bundle: Path) -> list[str]:
    """What lies beside the bundle."""
    return list(read_taught(folder_of(bundle), "toy-colours").activities)


def forget(peer: Peer, name: str = "yellow") -> Any:
    return peer.call(Forget, f"{NAME}/forget", Forget.Request(name=name), timeout_s=60, again_s=25)


class Asked:
    """A request in a thread of its own."""

    def __init__(self, ask: Callable[[], Any]) -> None:
        self._answers: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(ask()), daemon=True)
        self._thread.start()

    @property
    def answered(self) -> bool:
        return bool(self._answers)

    def answer(self) -> Any:
        self._thread.join(60)
        return self._answers[0]


def wait_for_progress(peer: Peer, text: str) -> None:
    wait_until(
        lambda: any(
            entry.key == "teaching" and text in entry.value
            for status in list(peer.diagnostics.values())
            for entry in status.values
        ),
        f"{text!r} in /diagnostics",
        15,
    )


def test_while_somebody_else_changes_the_folder_the_node_serves_on(bundle: Path) -> None:
    with running(bundle) as (_, peer), seen(peer, YELLOW):
        next_labels(peer, 1)
        assert teach(peer, windows=3).success
        with locked(folder_of(bundle)):
            asked = Asked(lambda: forget(peer))
            results, reports = len(peer.activities), peer.reports
            wait_until(lambda: peer.reports >= reports + 3, "diagnostics", 10)
            assert len(peer.activities) > results + 3 and peer.state() == "active"
            assert not asked.answered
        assert asked.answer().success and known(bundle) == []


def test_a_node_that_is_cleaned_up_while_it_learns_answers_and_lives_on(bundle: Path) -> None:
    with running(bundle) as (_, peer):
        with locked(folder_of(bundle)), seen(peer, YELLOW):
            next_labels(peer, 1)
            asked = Asked(lambda: teach(peer, windows=2))
            wait_for_progress(peer, "being learned")
            assert peer.transition("deactivate") and peer.transition("cleanup")
            answer = asked.answer()
            assert not answer.success and "cleaned up" in answer.message
        assert peer.transition("configure") and peer.transition("activate")
        with seen(peer, YELLOW):
            assert known(bundle) == []
            assert teach(peer, windows=2).success


@pytest.mark.parametrize("how", ["deactivate", "disable"])
def test_what_is_being_shown_ends_with_the_images_and_is_not_taught(bundle: Path, how: str) -> None:
    with running(bundle) as (_, peer), seen(peer, YELLOW):
        next_labels(peer, 1)
        asked = Asked(lambda: teach(peer, windows=100))
        wait_for_progress(peer, "yellow: ")
        if how == "deactivate":
            assert peer.transition("deactivate")
        else:
            assert peer.call(SetBool, f"{NAME}/enable", SetBool.Request(data=False)).success
        answer = asked.answer()
        assert not answer.success and f"the node was {how}d" in answer.message
        assert "nothing was taught" in answer.message and known(bundle) == []
        if how == "deactivate":
            assert peer.transition("activate")
        else:
            assert peer.call(SetBool, f"{NAME}/enable", SetBool.Request(data=True)).success
        assert teach(peer, "other", windows=2).success


def test_of_two_requests_at_once_the_second_is_refused_and_the_first_is_taught(bundle: Path) -> None:
    with running(bundle) as (_, peer), seen(peer, YELLOW):
        next_labels(peer, 1)
        clients = [peer.node.create_client(Teach, f"{NAME}/teach") for _ in range(2)]
        assert all(client.wait_for_service(20) for client in clients)
        wait_until(lambda: peer.node.count_clients(f"{NAME}/teach") >= 2, "both clients")
        futures = [
            client.call_async(Teach.Request(name=name, windows=3))
            for client, name in zip(clients, ("one", "two"), strict=True)
        ]
        wait_until(lambda: all(future.done() for future in futures), "both answers", 30)
        (taught,) = [future.result() for future in futures if future.result().success]
        (refused,) = [future.result() for future in futures if not future.result().success]
        assert taught.windows == 3 and "is being taught; wait until that is done" in refused.message
        assert len(known(bundle)) == 1


def test_a_request_for_more_windows_than_are_kept_is_refused(bundle: Path) -> None:
    with running(bundle) as (_, peer):
        answer = teach(peer, windows=4_294_967_295)
        assert not answer.success and "at most 128" in answer.message


def test_where_teaching_is_off_what_was_taught_is_neither_used_nor_forgotten(bundle: Path) -> None:
    with running(bundle) as (_, peer), seen(peer, YELLOW):
        next_labels(peer, 1)
        assert teach(peer, windows=3).success and teach(peer, "other", windows=3).success
    with running(bundle, taught="none") as (_, peer):
        infos = load_info(peer)
        answer = forget(peer)
        assert not answer.success and "teaching is off" in answer.message
        assert known(bundle) == ["yellow", "other"]
        wait_until(lambda: infos and infos[-1].labels == ["red", "green", "blue"], "the labels")


def test_a_damaged_table_of_clips_is_said_before_anything_is_forgotten(bundle: Path) -> None:
    with running(bundle, keep_clips=True) as (_, peer), seen(peer, YELLOW):
        next_labels(peer, 1)
        assert teach(peer, windows=3).success
        table = folder_of(bundle) / "clips" / "clips.csv"
        good = table.read_text()
        table.write_text(good + '"' + "x" * 200_000)
        answer = forget(peer)
        assert not answer.success and f"{table}: not a table path,class" in answer.message
        assert known(bundle) == ["yellow"] and peer.state() == "active"
        table.write_text(good)
        assert forget(peer).success and known(bundle) == [] and not table.exists()


def test_clips_go_before_their_activity_and_are_forgotten_without_one_too(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(bundle, keep_clips=True) as (_, peer), seen(peer, YELLOW):
        next_labels(peer, 1)
        assert teach(peer, windows=3).success
        folder = folder_of(bundle)

        def full(*_: object) -> None:
            raise DataError("no room")

        with monkeypatch.context() as patch:
            patch.setattr(teaching, "write_taught", full)
            answer = forget(peer)
        assert not answer.success and "no room" in answer.message
        assert known(bundle) == ["yellow"] and not (folder / "clips").exists()
        assert forget(peer).success and known(bundle) == []
        keep_clips(folder, "alone", [np.zeros((4, 32, 32, 3), np.uint8)], 8.0)
        assert forget(peer, "alone").success and not (folder / "clips").exists()
        assert "was not taught" in forget(peer, "alone").message


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_shown(bundle: Path) -> None:
    with running(bundle) as (_, peer), seen(peer, YELLOW):
        next_labels(peer, 1)
        assert teach(peer, windows=3).success
        before = {file.name: file.read_bytes() for file in folder_of(bundle).iterdir()}
        with no_file_above(1000):
            answer = teach(peer, "other", windows=100)
        assert not answer.success and not answer.windows
        assert f"{folder_of(bundle)}: cannot be written (File too large)" in answer.message
        assert before == {file.name: file.read_bytes() for file in folder_of(bundle).iterdir()}
        next_labels(peer, 1)  # and the node goes on


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_while_a_lesson_is_learned_ends_the_process_in_time(
    bundle: Path, number: signal.Signals
) -> None:
    new_domain()
    peer, node = Peer(), Process("--ros-args", "-p", f"bundle:={bundle}")
    try:
        peer.wait_for_camera()
        with locked(folder_of(bundle)), seen(peer, YELLOW):
            next_labels(peer, 1)
            client = peer.node.create_client(Teach, f"{NAME}/teach")
            assert client.wait_for_service(20)
            client.call_async(Teach.Request(name="yellow", windows=2))
            wait_for_progress(peer, "being learned")
            code, seconds = node.end(number)
        assert code == 0, node.output
        assert seconds < 4, node.output  # three, and what a loaded machine takes to notice
        assert known(bundle) == [] and "Traceback" not in node.output
    finally:
        node.close()
        peer.close()
