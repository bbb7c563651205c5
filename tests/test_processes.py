"""One run, shared by two processes on this machine."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import safetensors.numpy
from conftest import refused

import train
from colorjax import batches, step

ROOT = Path(__file__).parent.parent
# By AdamW: Muon makes the smallest parts of a gradient as large as the others, rounding included.
COMMON = [
    "--preset",
    "unet",
    "--width",
    "16",
    "--size",
    "32",
    "--batch",
    "8",
    "--steps",
    "6",
    "--validate-every",
    "3",
    "--optimizer",
    "adamw",
]


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def start(process, port, *argv):
    """train.py in a process of its own, with one CPU device."""
    command = [
        sys.executable,
        ROOT / "train.py",
        *argv,
        "--coordinator",
        f"localhost:{port}",
        "--processes",
        2,
        "--process",
        process,
    ]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.Popen(
        [str(word) for word in command],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def alone(*argv):
    return train.main([str(word) for word in (*argv, "--devices", "1")])


def weights(run):
    return safetensors.numpy.load_file(run / "weights.safetensors")


def test_two_train_as_one_does_and_any_go_on_from_their_checkpoint(photographs, tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    port, elsewhere = free_port(), tmp_path / "elsewhere"  # machines have their own places
    shutil.copytree(photographs, elsewhere)
    runs = [
        start(process, port, "--data", folder, *COMMON, "--out", two)
        for process, folder in enumerate((photographs, elsewhere))
    ]
    assert alone("--data", photographs, *COMMON, "--out", one) == 0
    (said, error), (silent, _) = [run.communicate(timeout=240) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], error
    assert "on 2 cpu device(s)" in said and "wrote" in said
    assert "validation" not in silent and "wrote" not in silent
    wanted, together = weights(one), weights(two)
    for name, value in wanted.items():
        np.testing.assert_allclose(together[name], value, atol=1e-5, rtol=1e-4, err_msg=name)
    # The newest checkpoint taken away, one process with one device goes on from step 3; then two.
    shutil.rmtree(two / "checkpoints" / "6")
    shutil.copytree(two, again := tmp_path / "again")
    capsys.readouterr()
    assert alone("--out", two, "--resume") == 0
    assert "going on from step 3" in capsys.readouterr().out
    for name, value in wanted.items():
        np.testing.assert_allclose(weights(two)[name], value, atol=1e-5, rtol=1e-4, err_msg=name)
    port = free_port()
    runs = [start(process, port, "--out", again, "--resume") for process in (0, 1)]
    (said, error), _ = [run.communicate(timeout=240) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], error
    assert "going on from step 3" in said
    np.testing.assert_equal(weights(again), together)


TALK = """
import os, signal, sys
from colorjax.extra import distributed
process = int(sys.argv[2])
distributed.join(sys.argv[1], 2, process)
interrupt = distributed.Interrupt()
values = [distributed.firsts(0.5 + process), distributed.greatest(7 * process)]
if process == 1:
    os.kill(os.getpid(), signal.SIGTERM)
values += [interrupt.asked(together=False), interrupt.asked(together=True)]
print(values, file=sys.stderr)
"""


def test_what_the_first_says_and_any_asks_all_hear():
    """Told to end, one of them ends all of them, at a step that they agree on."""
    address = f"localhost:{free_port()}"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TALK, address, str(process)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in (0, 1)
    ]
    for run in runs:
        _, said = run.communicate(timeout=120)
        assert run.returncode == 0, said
        assert str([0.5, 7, 0, int(signal.SIGTERM)]) in said


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
    assert batches.put(Images(), rows, split).shape == (4, 2, 2, 3)  # type: ignore
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
