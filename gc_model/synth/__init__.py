# SPDX-License-Identifier: Apache-2.0
"""Synthetic people: video clips of articulated bodies with exact joints, for training, tests and the demo."""

from gc_model.synth.activities import ACTIVITIES, PAIRS
from gc_model.synth.clip import Clip, ClipSpec, render, render_clip
from gc_model.synth.dataset import plan, synthesize
from gc_model.synth.scenes import plan_scenes, synthesize_scenes
from gc_model.synth.several import SceneSpec, render_scene

__all__ = [
    "ACTIVITIES",
    "PAIRS",
    "Clip",
    "ClipSpec",
    "SceneSpec",
    "plan",
    "plan_scenes",
    "render",
    "render_clip",
    "render_scene",
    "synthesize",
    "synthesize_scenes",
]
