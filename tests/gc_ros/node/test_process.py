# SPDX-License-Identifier: Apache-2.0
"""The process around the node: whose signals end it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.gc_ros.node.harness import ROOT

pytestmark = pytest.mark.ros

FORKS = """
import os, signal, threading, time
from gc_ros.node import process

signalled = process._note_signals(threading.Event())
ready, go = os.pipe()
child = os.fork()  # as libraries do, which know nothing of us
if child == 0:
    os.write(go, b".")
    while True:
        signal.pause()
os.read(ready, 1)
os.kill(child, signal.SIGTERM)
_, status = os.waitpid(child, 0)
assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, status
assert not signalled.wait(0.5), "the child's signal is not ours"
os.kill(os.getpid(), signal.SIGTERM)
assert signalled.wait(5)
print("well")
os._exit(0)
"""


def test_a_signal_to_what_a_library_forks_ends_that_and_not_the_node() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "well\n", done.stderr
