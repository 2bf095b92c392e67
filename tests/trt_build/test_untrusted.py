# SPDX-License-Identifier: Apache-2.0
"""What somebody who may write into a bundle can do with it: nothing is followed, nothing hangs, nothing is believed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from tests.trt_build.planting import KINDS, LAST_S, plant
from tests.trt_build.test_bundle import refused, rewrite
from trt_build import bundle as bundle_module
from trt_build import integrity, references
from trt_build.bundle import Bundle, LoadedBundle, file_sha256, load_bundle, write_bundle
from trt_build.errors import BundleError
from trt_build.references import external_files
from trt_build.untrusted import NotRegular, open_regular, read_regular


@pytest.fixture
def bundle(numbers: LoadedBundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(numbers.path, tmp_path / "copy"))


@pytest.mark.timeout(LAST_S)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bundle.json", "weights.bin", "window.onnx"])
def test_what_is_not_a_regular_file_is_refused_whatever_is_behind_it(
    bundle: Path, tmp_path: Path, name: str, kind: str
) -> None:
    same = Path(shutil.copy(bundle / name, tmp_path / "same"))
    plant(bundle / name, kind, same)
    refused(bundle, name, f"it is a {kind.split()[0] if kind in KINDS[:4] else 'link'}", "cp -rL")
    with pytest.raises(BundleError):
        load_bundle(bundle, verify=False)


def test_the_bundles_own_folder_may_be_a_link_and_a_copy_without_links_is_the_remedy(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "current").symlink_to(bundle)
    assert load_bundle(tmp_path / "current").info == load_bundle(bundle).info
    (bundle / "weights.bin").rename(tmp_path / "elsewhere")
    (bundle / "weights.bin").symlink_to(tmp_path / "elsewhere")
    refused(bundle, "cp -rL")
    subprocess.run(["cp", "-rL", bundle, tmp_path / "whole"], check=True)
    load_bundle(tmp_path / "whole")


def test_a_link_among_the_folders_of_a_name_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"secret")
    (tmp_path / "inside" / "deep").mkdir(parents=True)
    (tmp_path / "inside" / "deep" / "x").write_bytes(b"own")
    (tmp_path / "inside" / "way").symlink_to(tmp_path / "outside")
    assert read_regular(tmp_path / "inside", "deep/x", 10) == b"own"
    with pytest.raises(NotRegular, match="it is a link"):
        open_regular(tmp_path / "inside", "way/x")
    with pytest.raises(OSError, match="larger than 2 bytes"):
        read_regular(tmp_path / "inside", "deep/x", 2)
    with pytest.raises(FileNotFoundError) as caught:
        open_regular(tmp_path / "inside", "deep/none")
    assert caught.value.filename == str(tmp_path / "inside" / "deep" / "none")


def test_a_file_is_read_in_the_memory_of_its_size_not_of_what_it_might_have(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(1 << 20))
    tracemalloc.start()
    try:
        assert len(read_regular(tmp_path, "x", 4 << 30)) == 1 << 20
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_grows_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"seen")
    real = os.fstat

    def grows_behind_each_look(descriptor: int) -> os.stat_result:
        status = real(descriptor)
        with path.open("ab") as file:
            file.write(b", and more")
        return status

    monkeypatch.setattr(os, "fstat", grows_behind_each_look)
    with pytest.raises(OSError, match="it grew while it was read"):
        read_regular(tmp_path, "x", 1000)


def test_writing_a_bundle_writes_through_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("window.onnx", "bundle.json", f".window.onnx.{os.getpid()}.part"):
        (out / name).symlink_to(victim)
    source = tmp_path / "made.onnx"
    source.write_bytes(b"graph")
    fields = {"model_id": "m", "preset": "p", "labels": ["a"], "glimpses": 1, "workers": 1, "rate_hz": 8.0}
    info = Bundle(**fields, temporal="causal", modes=["window"], default_mode="window", reset_after=0)
    write_bundle(out, info, {"window.onnx": source})
    assert victim.read_text() == "precious" and load_bundle(out).info.labels == ["a"]
    (out / "weights.bin").symlink_to(victim)
    with pytest.raises(BundleError, match="it is a link"):
        write_bundle(out, info, ["window.onnx", "weights.bin"])


# -- what a graph refers to ----------------------------------------------------------------------------------


def tensor(location: str) -> TensorProto:
    made = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    set_external_data(made, location)
    made.ClearField("raw_data")
    return made


def hidden(location: str) -> dict[str, onnx.ModelProto]:
    """Graphs that refer to `location` at every place where one can."""
    plain = helper.make_graph([], "g", [], [], [tensor(location)])
    sparse = helper.make_sparse_tensor(tensor(location), tensor(location), [4])
    attribute = helper.make_node("Constant", [], ["c"], value=tensor(location))
    branch = helper.make_node("If", ["b"], ["o"], then_branch=plain, else_branch=plain)
    nested = helper.make_graph([branch], "h", [], [])
    deep = helper.make_node("If", ["b"], ["o"], then_branch=nested, else_branch=nested)
    opsets = [helper.make_opsetid("", 17)]
    function = helper.make_function("d", "f", [], [], [attribute], opsets)
    default = helper.make_attribute("by default", tensor(location))
    defaults = helper.make_function("d", "g", [], [], [], opsets, attribute_protos=[default])

    def model(*nodes: onnx.NodeProto, **more: Any) -> onnx.ModelProto:
        return helper.make_model(helper.make_graph(list(nodes), "g", [], [], []), **more)

    with_sparse = model()
    with_sparse.graph.sparse_initializer.append(sparse)
    training = model()
    training.training_info.add().initialization.CopyFrom(plain)
    return {
        "initializer": helper.make_model(plain),
        "sparse initializer": with_sparse,
        "attribute": model(attribute),
        "list of tensors": model(helper.make_node("X", [], ["c"], many=[tensor(location)])),
        "list of graphs": model(helper.make_node("X", [], ["c"], many=[plain])),
        "branch": model(branch),
        "branch of a branch": model(deep),
        "function": model(functions=[function]),
        "default of a function": model(functions=[defaults]),
        "training": training,
    }


@pytest.mark.parametrize("place", list(hidden("x")))
def test_every_file_that_a_graph_refers_to_must_have_a_hash(bundle: Path, place: str) -> None:
    data = hidden("../../etc/shadow")[place].SerializeToString()
    (bundle / "window.onnx").write_bytes(data)
    rewrite(bundle, lambda d: d["sha256"].update({"window.onnx": file_sha256(bundle / "window.onnx")}))
    refused(bundle, "window.onnx refers to '../../etc/shadow'", "no hash")
    assert external_files(hidden("weights.bin")[place].SerializeToString()) == {"weights.bin"}


def test_weights_that_bundle_json_forgets_are_refused(bundle: Path) -> None:
    rewrite(bundle, lambda d: d["sha256"].pop("weights.bin"))
    refused(bundle, "refers to 'weights.bin'", "no hash")


@pytest.mark.parametrize("mode", ["window", "step"])
def test_references_are_read_as_onnx_reads_them(numbers: LoadedBundle, mode: str) -> None:
    data = numbers.graph(mode).read_bytes()
    model = onnx.load_from_string(data)
    want = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    assert external_files(data) == want == {"weights.bin"}
    # A group, which protobuf skips as unknown, hides nothing and stops nothing.
    assert external_files(b"\xfb\x03\x08\x01\xfc\x03" + data) == want


@settings(max_examples=300, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 300),
)
def test_no_damaged_graph_raises_and_none_that_onnx_reads_hides_a_file(
    changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(hidden("weights.bin")["branch of a branch"].SerializeToString())
    for at, value in changes:
        data[at % len(data)] = value
    data = data[: len(data) - cut]
    found = external_files(bytes(data))
    model = onnx.ModelProto()
    try:
        model.ParseFromString(bytes(data))
    except Exception:
        return
    outer = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
    inner = {
        e.value
        for node in model.graph.node
        for a in node.attribute
        for n in a.g.node
        for b in n.attribute
        for t in b.g.initializer
        for e in t.external_data
        if e.key == "location"
    }

    def text(location: str | bytes) -> str:
        return location if isinstance(location, str) else location.decode("utf-8", "replace")

    assert {text(location) for location in outer | inner} <= found


def field(number: int, data: bytes) -> bytes:
    size, length = len(data), b""
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def test_a_graph_of_endless_nesting_or_fields_is_refused(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b""
    for _ in range(40):  # a graph in an attribute of a node of a graph in ...
        for number in (6, 5, 1):
            data = field(number, data)
    (bundle / "step.onnx").write_bytes(field(7, data))
    rewrite(bundle, lambda d: d["sha256"].update({"step.onnx": file_sha256(bundle / "step.onnx")}))
    refused(bundle, "step.onnx", "nests deeper than")
    monkeypatch.setattr(references, "MAX_FIELDS", 10)
    with pytest.raises(ValueError, match="more than 10 fields"):
        external_files(hidden("w")["branch"].SerializeToString())


# -- bundle.json ---------------------------------------------------------------------------------------------


def test_the_digest_of_bundle_json_can_be_demanded(bundle: Path) -> None:
    digest = file_sha256(bundle / "bundle.json")
    assert load_bundle(bundle).sha256 == digest
    assert load_bundle(bundle, sha256=digest.upper()).sha256 == digest
    for nothing in (None, ""):
        assert load_bundle(bundle, sha256=nothing).sha256 == digest
    # Whoever writes the directory can write new hashes too, but not the demanded one.
    rewrite(bundle, lambda d: d.update(labels=[f"other{i}" for i in range(8)]))
    other = load_bundle(bundle).sha256
    assert other != digest
    with pytest.raises(BundleError, match=f"is {other}, but {digest} is demanded"):
        load_bundle(bundle, sha256=digest)
    with pytest.raises(BundleError, match="64 hex digits"):
        load_bundle(bundle, sha256="abc")


def test_a_written_bundle_knows_the_digest_it_reads_back_with(numbers: LoadedBundle) -> None:
    assert numbers.sha256 == load_bundle(numbers.path).sha256 == file_sha256(numbers.path / "bundle.json")


@pytest.mark.parametrize(
    "bad", ["a\nb", "a\x00b", "a\x1b[31m", "a\x7fb", "a\x85b", "a\u2028b", "a\u202eb", "a\u2066b"]
)
def test_control_characters_in_names_are_refused(bundle: Path, bad: str) -> None:
    rewrite(bundle, lambda d: d["labels"].__setitem__(0, bad))
    refused(bundle, "labels", "control characters")
    rewrite(bundle, lambda d: d["labels"].__setitem__(0, "good") or d.update(model_id=bad))
    refused(bundle, "model_id", "control characters")


def test_half_a_character_is_no_label(bundle: Path) -> None:
    rewrite(bundle, lambda d: d["labels"].__setitem__(0, "\ud800"))
    refused(bundle, "labels", "\\ud800")


def test_labels_of_every_script_are_allowed(bundle: Path) -> None:
    names = ["brush teeth", "歯磨き", "چای می‌خورد", "ง่วง", "👩‍🍳", "café", "Ελληνικά", "a:b/c"]
    rewrite(bundle, lambda d: d.update(labels=names))
    assert load_bundle(bundle).info.labels == names


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d.update(rate_hz=1e-300), "rate_hz"),
        (lambda d: d.update(rate_hz=1e9), "rate_hz"),
        (lambda d: d.update(T=10**6), "T"),
        (lambda d: d.update(T=1000, preprocess={"size": 4000, "resize": 4000}), "window"),
        (lambda d: d["preprocess"].update(size=10**9, resize=10**9), "size"),
        (lambda d: d.update(glimpses=10**9), "glimpses"),
        (lambda d: d.update(workers=10**9), "workers"),
        (lambda d: d.update(reset_after=10**30), "reset_after"),
        (lambda d: d["calibration"].update(temperature=1e-300), "temperature"),
        (lambda d: d["calibration"].update(temperature=1e300), "temperature"),
        (lambda d: d.update(labels=[str(i) for i in range(10_001)]), "labels"),
        (lambda d: d.update(labels=["x" * 201]), "longer than 200"),
        (lambda d: d.update(model_id="x" * 201), "model_id"),
        (lambda d: d.update(sha256={f"f{i}": "0" * 64 for i in range(65)}), "sha256"),
        (lambda d: d["sha256"].update({"a\nb": "0" * 64}), "control characters"),
        (lambda d: d["sha256"].update({"./weights.bin": "0" * 64}), "not a file name"),
    ],
)
def test_sizes_rates_and_numbers_are_bounded(bundle: Path, change: Any, word: str) -> None:
    rewrite(bundle, change)
    refused(bundle, word)


@pytest.mark.parametrize("levels", [33, 5000, 200_000])
def test_a_deeply_nested_bundle_json_is_refused(bundle: Path, levels: int) -> None:
    data = json.loads((bundle / "bundle.json").read_text())
    text = json.dumps({**data, "provenance": {"deep": "HERE"}})
    (bundle / "bundle.json").write_text(text.replace('"HERE"', "[" * (levels - 2) + "]" * (levels - 2)))
    refused(bundle, "nests deeper than 32")


def test_brackets_in_strings_are_no_nesting_and_32_levels_are_read(bundle: Path) -> None:
    text = json.dumps({"x": '\\"[[[[' + "[" * 100})
    assert integrity.depth(text) == 1 and integrity.depth('{"a": [1, {"b": []}]}') == 4
    rewrite(bundle, lambda d: d.update(provenance=json.loads('{"a":' + "[" * 30 + "]" * 30 + "}")))
    load_bundle(bundle)


def test_all_files_together_are_bounded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(bundle / name).stat().st_size for name in load_bundle(bundle).info.sha256]
    monkeypatch.setattr(bundle_module, "MAX_BYTES", sum(sizes))
    load_bundle(bundle)
    monkeypatch.setattr(bundle_module, "MAX_BYTES", sum(sizes) - 1)
    refused(bundle, "more than a bundle may have")


def test_files_too_large_are_refused_before_they_are_read(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (bundle / "weights.bin").open("r+b") as file:
        file.truncate(1 << 35)  # a hole: 32 GiB that cost nothing
    refused(bundle, "weights.bin has 34359738368 bytes")
    (bundle / "weights.bin").write_bytes(b"")
    with (bundle / "step.onnx").open("r+b") as file:
        file.truncate(1 << 31)  # protobuf ends one byte before
    refused(bundle, "step.onnx has 2147483648 bytes")
    monkeypatch.setattr(bundle_module, "MAX_INFO_BYTES", 100)
    refused(bundle, "larger than 100 bytes")
