# SPDX-License-Identifier: Apache-2.0
"""Footage: what the robot samples from videos and bags, whose people count, what is left out."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[train,export]'")

from gc_ros.media import bag_reading, bags
from gc_ros.media.clips import find_clips
from gc_ros.recognition.footage import read_footage, training_subjects
from tests.gc_model.runs import bundle, colours
from tests.videos import flat, write_clip
from trt_build.bundle import load_bundle
from trt_build.errors import DataError


@pytest.mark.slow
def test_footage_is_what_the_robot_samples_from_videos_and_bags(tmp_path):
    info = load_bundle(bundle()).info
    chosen = find_clips([colours() / "red"])[:2]
    bags.make_bag(chosen, tmp_path / "bag", compressed="png")
    from_clips = read_footage([clip.path for clip in chosen], info)
    from_bag = read_footage([tmp_path / "bag"], info)
    assert [len(p.frames) for p in from_bag] == [len(p.frames) for p in from_clips] == [10, 10]
    for a, b in zip(from_clips, from_bag, strict=True):
        assert np.array_equal(a.frames, b.frames)
    with pytest.raises(DataError, match="no such clip"):
        read_footage([tmp_path / "nothing"], info)


def test_without_subjects_a_table_gives_the_people_of_the_training(tmp_path):
    info, table = load_bundle(bundle()).info, colours() / "clips.csv"

    def trained_on(*people):
        return info.model_copy(update={"provenance": {"subjects": list(people) or None}})

    assert training_subjects([table], trained_on("a")) == ["a"]
    assert training_subjects([table], trained_on("a", "z")) == []  # another table's people
    assert training_subjects([table], trained_on()) == []
    assert training_subjects([table, colours() / "red"], trained_on("a")) == []  # a folder knows nobody


def test_images_of_a_bag_that_cannot_be_decoded_are_counted_not_hidden(tmp_path, monkeypatch, caplog):
    info = load_bundle(bundle()).info
    bags.make_bag(find_clips([colours() / "red"])[:1], tmp_path / "bag", compressed="png")
    pictures = bag_reading._pictures

    def every_fifth_is_broken(messages):
        for k, (stamp, found) in enumerate(pictures(messages)):
            yield stamp, bag_reading.Refusal("compressed image cannot be decoded") if k % 5 == 4 else found

    monkeypatch.setattr(bag_reading, "_pictures", every_fifth_is_broken)
    (piece,) = read_footage([tmp_path / "bag"], info)
    assert len(piece.frames) >= info.T
    assert "images left out: compressed image cannot be decoded" in caplog.text and "bag: 4 " in caplog.text


def test_a_clip_shorter_than_a_window_gives_its_frames_spread_evenly(tmp_path):
    info = load_bundle(bundle()).info
    short = write_clip(tmp_path / "short.mp4", [flat((10 * i, 10 * i, 10 * i)) for i in range(16)], fps=16)
    (piece,) = read_footage([short], info)
    levels = piece.frames.reshape(8, -1).mean(1)
    assert piece.frames.shape[0] == 8 and levels[0] < 8 and levels[-1] > 140
    assert np.all(np.diff(levels) > 5)
