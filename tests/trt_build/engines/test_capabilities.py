# SPDX-License-Identifier: Apache-2.0
"""GPUs that a TensorRT leaves out are refused before anything is built, and the message names the version that does."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from trt_build.engines import capabilities, nvidia, targets
from trt_build.engines.capabilities import TABLE, check_capability, started
from trt_build.errors import EngineError


def module(version: str) -> Any:
    """TensorRT-RTX has a list of targets, TensorRT has not; `tensorrt_names.json` shows both."""
    if not version.startswith("1."):
        return SimpleNamespace(__version__=version)
    names = ["SM75", "SM80", "SM86", "SM89", "SM120"] + ["SM121"] * (version >= "1.5")
    return SimpleNamespace(
        __version__=version,
        ComputeCapability=SimpleNamespace(**dict.fromkeys([*names, "CURRENT", "NONE"], 0)),
    )


def gpu(capability: str, name: str = "NVIDIA H200") -> nvidia.Gpu:
    return nvidia.Gpu(0, name, capability, 1 << 30, 132)


@pytest.mark.parametrize(
    ("backend", "version", "capability"),
    [
        ("tensorrt_rtx", "1.4.0.76", "9.0"),
        ("tensorrt_rtx", "1.7.1.116", "8.9"),
        ("tensorrt_rtx", "1.7.1.116", "12.1"),
        ("tensorrt_rtx", "1.7.1.116", "13.0"),
        ("tensorrt", "10.3.0", "8.7"),
        ("tensorrt", "10.16.2.10", "8.7"),
        ("tensorrt", "11.4.1", "8.7"),
        ("tensorrt", "11.4.0.106", "8.9"),
        ("tensorrt", "10.13.3", "9.0"),
    ],
)
def test_what_is_known_to_load_is_taken(backend: str, version: str, capability: str) -> None:
    check_capability(module(version), backend, gpu(capability))


@pytest.mark.parametrize(
    ("backend", "version", "capability", "words"),
    [
        ("tensorrt_rtx", "1.7.1.116", "9.0", r"1\.7\.1\.116 .*H200 .*9\.0\): 1\.7 refused .*'tensorrt-rtx==1\.4\.\*'"),
        ("tensorrt_rtx", "1.5.0.114", "9.0", r"lists only sm75.*sm121.*'tensorrt-rtx==1\.4\.\*', backend tensorrt"),
        ("tensorrt_rtx", "1.4.0.76", "8.7", r"lists only sm75.*10\.3 of JetPack 6.*backend tensorrt"),
        ("tensorrt_rtx", "1.4.0.76", "7.0", r"use backend tensorrt, or onnxruntime with device cuda"),
        ("tensorrt", "11.4.0.106", "8.7", r"11\.0 to 11\.4\.0 do not support JetPack .*use TensorRT 10\.3"),
        ("tensorrt", "10.13.3.9", "8.7", r"no code for sm_87.*use TensorRT 10\.3 .* or TensorRT 10\.16 of"),
    ],
)  # fmt: skip
def test_what_does_not_load_is_refused_and_the_message_names_what_would(
    backend: str, version: str, capability: str, words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        check_capability(module(version), backend, gpu(capability))


NO_CODE = "Error Code 9: API Usage Error (Target GPU SM 87 is not supported by this TensorRT release.)"


@pytest.mark.parametrize(
    ("reported", "jetson", "file", "words"),
    [
        (NO_CODE, False, "", r"10\.13\.3 has no code for this GPU: use TensorRT 10\.3 of JetPack"),
        (NO_CODE, True, "/usr/lib/python3/dist-packages/tensorrt/__init__.py", r"use TensorRT 10\.3 of JetPack"),
        (NO_CODE, True, "/usr/local/lib/python3.10/dist-packages/tensorrt/__init__.py", r"pip uninstall.*libnvinfer"),
        (
            "CUDA initialization failure with error: 35", True,
            "/home/r/.local/lib/python3.10/site-packages/tensorrt/__init__.py", r"pip uninstall.*libnvinfer",
        ),
        ("CUDA initialization failure with error: 35", False, "", r"nvidia-smi: the driver must be at least as new"),
        ("Error Code 9: out of anything", True, "", r"^$"),
    ],
)  # fmt: skip
def test_what_tensorrt_reports_comes_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, reported: str, jetson: bool, file: str, words: str
) -> None:
    monkeypatch.setattr(capabilities, "_is_jetson", lambda: jetson)
    trt = SimpleNamespace(__version__="10.13.3", __file__=file)
    assert re.search(words, capabilities.remedy(trt, "tensorrt", reported))


@pytest.mark.parametrize("what", ["Builder", "Runtime"])
def test_a_tensorrt_that_cannot_start_says_why(what: str) -> None:
    class Log:
        said = ["nothing yet", "CUDA initialization failure with error: 35"]

        def take(self) -> str:
            return self.said.pop()

    def nothing(log: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt = SimpleNamespace(__version__="10.3.0", **{what: nothing})
    log = Log()
    log.said.append("an older error")
    with pytest.raises(EngineError, match=r"10\.3\.0 cannot start: CUDA initialization failure.*nvidia-smi"):
        started(getattr(trt, what), trt, "tensorrt", log)


def test_the_first_error_since_the_last_is_told_and_a_missing_gpu_only_where_nothing_else_is() -> None:
    """TensorRT reports the cause first and what follows from it later; a builder without a GPU always complains."""
    levels = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2)
    log = nvidia.log_of(type("trt", (), {"ILogger": type("ILogger", (), {"Severity": levels})}))
    no_gpu = "CUDA driver version is insufficient for CUDA runtime version"
    assert log.take() == "no reason given"
    log.log(levels.WARNING, "slow")
    log.log(levels.ERROR, no_gpu)
    assert log.take() == no_gpu and log.take() == "no reason given"
    for severity, message in (
        (levels.ERROR, no_gpu),
        (levels.ERROR, "the cause"),
        (levels.INTERNAL_ERROR, "thus"),
    ):
        log.log(severity, message)
    assert log.take() == "the cause" and log.take() == "no reason given"
    log.log(levels.INTERNAL_ERROR, "an assertion")
    assert log.take() == "an assertion"


@pytest.mark.parametrize(
    ("text", "capability"),
    [("sm89", "8.9"), ("8.9", "8.9"), ("89", "8.9"), ("SM_87", "8.7"), ("sm120", "12.0"), ("12.1", "12.1")],
)
def test_a_target_is_a_compute_capability_however_it_is_written(text: str, capability: str) -> None:
    assert nvidia.parse_target(text) == capability


@pytest.mark.parametrize("text", ["", "orin", "8", "sm", "sm89a", "8.9.0", "-8.9", "1200.1"])
def test_what_is_no_compute_capability_is_refused(text: str) -> None:
    with pytest.raises(EngineError, match=r"is not a compute capability; write sm89 or 8\.9"):
        nvidia.parse_target(text)


def test_every_row_of_the_table_has_a_source_and_no_two_contradict_each_other() -> None:
    for row in TABLE:
        assert row.source and row.capabilities
        for other in TABLE:
            for capability in {*row.capabilities} & {*other.capabilities}:
                both = other.holds(row.backend, row.first, capability)
                assert not both or row.loads == other.loads, (row, other)


def test_verify_and_bench_leave_out_a_tensorrt_that_does_not_load_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trt = module("1.7.1.116")
    monkeypatch.setattr(nvidia, "load", lambda backend: trt)
    monkeypatch.setattr(targets, "load_cuda", lambda: SimpleNamespace(gpu=lambda: gpu("9.0")))
    assert not targets._loads("tensorrt_rtx")
    trt.__version__ = "1.4.0.76"
    assert targets._loads("tensorrt_rtx")
