# SPDX-License-Identifier: Apache-2.0
"""Synthetic people: video clips of articulated bodies with exact joints, for training, tests and the demo."""

from gc_model.synth.activities import ACTIVITIES, PAIRS
from gc_model.synth.clip import Clip, ClipSpec, render, render_clip
from gc_model.synth.dataset import plan, synthesize

__all__ = ["ACTIVITIES", "PAIRS", "Clip", "ClipSpec", "plan", "render", "render_clip", "synthesize"]
