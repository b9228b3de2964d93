"""errors.one_sentence: how a script ends, seen from outside."""

import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from conftest import ROOT, TINY, run


def script(body: str) -> list[str]:
    head = "import time\nfrom pathlib import Path\nimport files\nfrom errors import *\nwith one_sentence():\n"
    return [sys.executable, "-c", head + textwrap.indent(textwrap.dedent(body), "    ")]


def end_of(body: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        script(body), cwd=cwd, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "body, message",
    [
        ("raise InputError('x.png: mend it')", "[Error] x.png: mend it\n"),
        ("open('gone/file')", "[Error] gone/file: No such file or directory\n"),
        ("raise OSError(28, 'No space left on device')", "[Error] writing: No space left on device\n"),
        (
            "raise InputError('Caught InputError in DataLoader worker 0.\\nTraceback:\\nerrors.InputError: y: bad')",
            "[Error] y: bad\n",
        ),
    ],
)
def test_one_sentence_and_status_1(tmp_path, body, message):
    result = end_of(body, tmp_path)
    assert (result.returncode, result.stderr) == (1, message)


@pytest.mark.parametrize(
    "body", ["1 / 0", "raise ValueError('a fault of ours')", "raise OSError(95, 'not about a file')"]
)
def test_faults_of_the_program_are_shown_whole(tmp_path, body):
    result = end_of(body, tmp_path)
    assert result.returncode == 1 and "Traceback" in result.stderr


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_half_written(tmp_path, number, code):
    (tmp_path / "file.txt").write_text("old")
    body = """
        with files.replacing(Path("file.txt")) as partial:
            partial.write_text("half")
            print("ready", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        script(body),
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code and errors.startswith("[Stopped] by") and "Traceback" not in errors
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"] and (tmp_path / "file.txt").read_text() == "old"


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    pipeline = shlex.join(script("for _ in range(100000): print('line')")) + " | head -1"
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    result = subprocess.run(pipeline, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert result.stdout == "line\n" and result.stderr == ""


@pytest.mark.parametrize("moment", ["while torch is imported", "in a step"])
def test_ctrl_c_in_training_ends_at_once_and_without_a_traceback(home, moment):
    process = subprocess.Popen(
        [sys.executable, "-u", ROOT / "train.py", "inputs/discs", *TINY, "--num_workers", "2", "--epochs", "1000"],
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if moment == "in a step":
        while not process.stdout.readline().startswith("Epoch: "):
            assert process.poll() is None
    else:
        while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode in (130, -signal.SIGINT) and "Traceback" not in output, output


def test_a_missing_package_is_named(tmp_path):
    """Without site-packages nothing of requirements.txt can be imported."""
    for name in ("train.py", "preprocess_dsb2018.py"):
        result = subprocess.run(
            [sys.executable, "-S", ROOT / name], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 1 and "[Error] not installed: torch, albumentations, cv2" in result.stderr
    assert run("train.py", "--help", cwd=tmp_path).returncode == 0
