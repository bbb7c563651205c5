"""One run, shared by two processes on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import refused
from test_train import interrupt_at, weights

import train
from colorjax import data, step

ROOT = Path(__file__).parent.parent
# By AdamW: Muon makes the smallest parts of a gradient as large as the others, rounding included.
COMMON = "--preset paper --width 16 --size 16 --batch 8 --steps 4 --validate-every 2".split()


def two(*argv):
    """The same command in two processes, each of one CPU device; what they said and their status.

    To start them costs more than they do: both compile.
    """
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        address = f"localhost:{listener.getsockname()[1]}"
    common = [*argv, "--coordinator", address, "--processes", 2, "--process"]
    runs = [
        subprocess.Popen(
            [str(word) for word in (sys.executable, ROOT / "train.py", *common, process)],
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for process in (0, 1)
    ]
    results = [run.communicate(timeout=240) for run in runs]
    return results, [run.returncode for run in runs]


def test_two_train_as_one_does_and_go_on_from_its_state(photographs, tmp_path, monkeypatch):
    """One process makes two steps on two devices, two processes the rest; as one does all four."""
    one, shared = tmp_path / "one", tmp_path / "shared"
    argv = ["--data", str(photographs), *COMMON, "--devices", "2", "--out"]
    assert train.main([*argv, str(one)]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        assert train.main([*argv, str(shared)]) == 130
    ((said, error), (silent, _)), status = two("--out", shared, "--resume")
    assert status == [0, 0], error
    assert "on 2 cpu device(s)" in said and "going on from step 2" in said and "wrote" in said
    assert "validation" not in silent and "wrote" not in silent
    expected, together = weights(one), weights(shared)
    for name, value in expected.items():
        np.testing.assert_allclose(together[name], value, atol=1e-5, rtol=1e-4, err_msg=name)


def test_two_processes_with_one_device_are_refused_by_both(photographs, tmp_path):
    out = tmp_path / "run"
    results, status = two("--data", photographs, *COMMON, "--devices", 1, "--out", out)
    assert status == [2, 2]
    for _, error in results:
        assert "--devices 1: it must be a multiple of the 2 processes" in error
        assert "Traceback" not in error
    assert not out.exists()


def test_each_process_reads_its_own_part_of_a_batch():
    """Two halves of this process's devices stand for two processes."""
    read = []

    class Images:
        shape = (8, 2, 2, 3)

        def __getitem__(self, rows):
            read.append(list(rows))
            return np.zeros((len(rows), *self.shape[1:]), np.uint8)

    rows = np.array([5, 3, 7, 1])
    _, split = step.placement(2)
    images = data.device_put_rows(Images(), rows, split)  # type: ignore - stands for an array
    assert images.shape == (4, 2, 2, 3)
    assert sorted(read) == [[5, 3], [7, 1]]


def test_processes_that_cannot_be_joined_say_so(photographs, tmp_path, capsys):
    common = ["--data", photographs, "--out", tmp_path / "run"]
    refused(capsys, train.main, [*common, "--processes", "2"], "--coordinator")
    address = ["--coordinator", "localhost:1"]
    refused(capsys, train.main, [*common, *address], "--processes", "--process")
    wrong = [*common, *address, "--processes", "2", "--process", "2"]
    refused(capsys, train.main, wrong, "--process 2", "0 to 1")
    refused(capsys, train.main, [*common, "--coordinator", "here"], "--coordinator here")
    assert not (tmp_path / "run").exists()
