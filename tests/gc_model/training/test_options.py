# SPDX-License-Identifier: Apache-2.0
"""`--set`: what is typed becomes the option, and what cannot be names a spelling that can."""

import shlex
from pathlib import Path
from typing import get_args

import pytest

from gc_model.training.options import TrainOptions, holds_several, training_options
from trt_build.errors import DataError

SEVERAL = sorted(name for name in TrainOptions.model_fields if holds_several(name))
# Of each: as typed with commas, the same in JSON, what it is, and what the other options must be.
TYPED = {
    "also": ("a/b, c", '["a/b", "c"]', [Path("a/b"), Path("c")], {}),
    "classes": ("wave,sit down", '["wave", "sit down"]', ["wave", "sit down"], {}),
    "idle_classes": ("bow", '["bow"]', ["bow"], {}),
    "scale": ("0.85,1.1", "[0.85, 1.1]", (0.85, 1.1), {}),
    "shares": ("0.6,.4", "[0.6, 0.4]", [0.6, 0.4], {"also": ["more"]}),
    "subjects": ("p1,p2", '["p1", "p2"]', ["p1", "p2"], {}),
}


def options(*settings, **values):
    return training_options({"data": Path("clips")} | values, settings)


def test_every_option_of_several_values_is_known_here():
    assert sorted(TYPED) == SEVERAL
    # Told from its type: an option that is added as a list or a range must be found.
    shown = {name: str(field.annotation) for name, field in TrainOptions.model_fields.items()}
    assert [n for n, kind in sorted(shown.items()) if "list[" in kind or "tuple[" in kind] == SEVERAL


@pytest.mark.parametrize("name", SEVERAL)
def test_several_values_are_typed_with_commas_or_as_json(name):
    commas, as_json, value, others = TYPED[name]
    assert getattr(options(f"{name}={commas}", **others), name) == value
    assert getattr(options(f"{name}={as_json}", **others), name) == value


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("text", ["[0.5", "[drawn]", "[{}, {}]", "x,", "1,2,3,x"])
def test_the_error_of_several_values_names_a_spelling_that_works(name, text):
    try:
        options(f"{name}={text}", **TYPED[name][3])
    except DataError as error:
        message = str(error)
    else:
        # Any name is a name; what is no number or no list is refused.
        assert not text.startswith("[") and name not in ("scale", "shares")
        return
    assert message.startswith((f"{name}.", f"{name}: ", f"--set {name}=")), message
    remedy = message.partition(", as in ")[2]
    assert remedy.startswith("--set ") and remedy.count("\n") == 0
    option, setting = shlex.split(remedy)
    assert option == "--set" and getattr(options(setting, **TYPED[name][3]), name)


def test_a_name_that_holds_a_comma_is_typed_as_json():
    assert options('classes=["sit, stand", "wave"]').classes == ["sit, stand", "wave"]


@pytest.mark.parametrize("setting", ["scale=0.9,0.5", "scale=0,1", "scale=0.5,9"])
def test_a_range_that_is_none_is_told_the_default_as_one_types_it(setting):
    with pytest.raises(
        DataError, match=r"^scale: .* not a range of crop sizes; the default is scale="
    ) as refused:
        options(setting)
    default = str(refused.value).rpartition(" ")[2]
    assert options(default).scale == TrainOptions.model_fields["scale"].default


@pytest.mark.parametrize(
    "setting",
    ["window_s=inf", "window_s=nan", "window_s=100000", "window_s=0.0001", "lr=inf", "weight_decay=inf"],
)
def test_numbers_that_no_run_can_have_are_refused(setting):
    with pytest.raises(DataError, match=f"^{setting.partition('=')[0]}: "):
        options(setting)


def test_a_rule_over_several_options_is_one_sentence():
    with pytest.raises(DataError, match=r"^shares: give one for data"):
        options("shares=1,2")


@pytest.mark.parametrize("name", sorted(set(TrainOptions.model_fields) - set(SEVERAL)))
def test_an_option_of_one_value_takes_no_list(name):
    kinds = get_args(TrainOptions.model_fields[name].annotation) or (
        TrainOptions.model_fields[name].annotation,
    )
    if Path in kinds or str in kinds:
        assert str(getattr(options(f"{name}=[a, b]"), name)) == "[a, b]"
    else:
        with pytest.raises(DataError, match=f"^{name}: "):
            options(f"{name}=[1, 2]")


def test_losses_without_joints_are_off_and_what_moves_switches_on_those_of_glimpses_alone(tmp_path):
    asked = {"data": tmp_path, "pose_weight": 0.5, "glimpse_weight": 0.2, "separation": 0.3}
    assert TrainOptions(**asked).loss_weights == (0, 0, 0)
    assert TrainOptions(**asked, motion=True).loss_weights == (0, 0.2, 0.3)
    assert TrainOptions(**asked, joints=tmp_path).loss_weights == (0.5, 0.2, 0.3)
    assert TrainOptions(**asked, layout="ntu").loss_weights == (0.5, 0.2, 0.3)
    assert TrainOptions(**asked, layout="nucla").loss_weights == (0, 0, 0)


def test_stage_1_trains_a_classifier_alone_on_a_frozen_trunk_without_poses_to_learn(tmp_path):
    def alone(**changes) -> bool:
        return TrainOptions(data=tmp_path, **changes).head_alone

    assert alone(freeze_stages=5) and not alone(freeze_stages=4)
    assert not alone(freeze_stages=5, joints=tmp_path) and alone(
        freeze_stages=5, joints=tmp_path, pose_weight=0
    )
