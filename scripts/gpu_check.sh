#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The first thing to run on a GPU: tests, builds, verification and times of engines, in one JSON, in eight minutes.
#
#   scripts/gpu_check.sh [--out FILE] [--bundle DIR ...] [--seconds 480]
#
# Needs no network: a checkout (gc_model, gc_ros, trt_build, tests, benchmarks, scripts, bundles), Python with what the
# package needs, cuda-bindings, TensorRT-RTX or TensorRT; PyTorch for the untrained `paper`, pytest and hypothesis for
# the tests. What is missing is skipped with the reason. Exit code 1 if a step fails.
set -eu
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" OMP_WAIT_POLICY=PASSIVE
exec "${PYTHON:-python3}" "$here/scripts/gpu_check.py" "$@"
