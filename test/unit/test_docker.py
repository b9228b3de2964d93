# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""docker_start.sh with a stub of docker, and the parts of the Dockerfile that run without Docker."""

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

# a name that creates a file "ran", or turns into another name, if a script expands it
HOSTILE = "-a 'b\" $(touch ran) `touch ran`; touch ran & #*?[x]{c,d}~\\n\\ %s =e"
WORKDIR = "/workspace/unet"
STUB = '#!/bin/sh\nprintf "%s\\0" "$@" >"$RECORD"\nexit "${STUB_EXIT:-0}"\n'


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Host:
    """A copy of docker_start.sh, a stub of docker, and a folder that holds the host's devices and driver."""

    def __init__(self, folder: Path):
        self.root, self.files, self.record = folder / "a folder", folder / "host", folder / "record"
        (self.root / "test").mkdir(parents=True)
        self.files.mkdir()
        shutil.copy(ROOT / "test" / "common.sh", self.root / "test")
        script = (ROOT / "docker_start.sh").read_text(encoding="utf-8")
        script, count = re.subn(r"^host= #", f"host='{self.files}' #", script, flags=re.MULTILINE)
        assert count == 1
        (self.root / "docker_start.sh").write_text(script, encoding="utf-8")
        write_program(folder / "bin" / "docker", STUB)
        self.env = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "RECORD": str(self.record)}

    def add(self, *paths: str) -> None:
        for path in paths:
            (self.files / path).parent.mkdir(parents=True, exist_ok=True)
            (self.files / path).touch()

    def add_npus(self, *numbers: int) -> None:
        self.add(*(f"dev/davinci{number}" for number in numbers))
        self.add("dev/davinci_manager", "dev/devmm_svm", "dev/hisi_hdc", "usr/local/Ascend/driver/version.info")

    def start(self, *flags: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess:
        command = [shutil.which("bash"), self.root / "docker_start.sh", *flags]
        return subprocess.run(
            command, cwd=cwd or self.root, env=self.env | env, capture_output=True, text=True, timeout=20, check=False
        )

    def arguments(self, *flags: str, **options: object) -> list[str]:
        """Return the arguments that docker got."""
        done = self.start(*flags, **options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return self.record.read_text().split("\0")[:-1]

    def refused(self, *flags: str, **options: object) -> str:
        """Return the sentence that the script ends with; docker was not called."""
        done = self.start(*flags, **options)
        assert done.returncode == 1 and done.stdout == "" and not self.record.exists()
        assert done.stderr.startswith("[Error] ") and done.stderr.count("\n") == 1
        return done.stderr


def values(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(arguments) if name == option]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_host_without_npus_uses_the_cpu(host: Host) -> None:
    arguments = host.arguments()
    mounts = [f"{host.root / name}:{WORKDIR}/{name}" for name in ("inputs", "models", "outputs", "test/output")]
    user = f"{os.getuid()}:{os.getgid()}"
    assert arguments == [
        *("run", "--rm", "--init", "--user", user, "--env", "HOME=/tmp", "--shm-size", "8g"),
        *(word for mount in mounts for word in ("--volume", mount)),
        "unet-for-pytorch",
    ]
    assert all(Path(mount.split(":")[0]).is_dir() for mount in mounts)


def test_the_folders_of_the_image_are_those_of_the_script() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^WORKDIR (\S+)$", dockerfile, re.MULTILINE)[-1] == WORKDIR
    assert "mkdir -p inputs models outputs test/output" in dockerfile


def test_all_npus_of_the_host(host: Host) -> None:
    host.add_npus(0, 1, 10)
    host.add("dev/davinci_other", "usr/local/dcmi/libdcmi.so", "usr/local/bin/npu-smi")
    host.add("etc/ascend_install.info", "etc/hccn.conf")
    arguments = host.arguments()
    devices = ("davinci0", "davinci1", "davinci10", "davinci_manager", "devmm_svm", "hisi_hdc")
    assert values(arguments, "--device") == [f"{host.files}/dev/{name}" for name in devices]
    driver = ("usr/local/Ascend/driver", "usr/local/dcmi", "usr/local/bin/npu-smi")
    driver += ("etc/ascend_install.info", "etc/hccn.conf")
    assert values(arguments, "--volume")[:5] == [f"{host.files}/{path}:/{path}:ro" for path in driver]
    assert len(values(arguments, "--volume")) == 9
    assert arguments == host.arguments("--device=npu")


def test_chosen_npus_and_what_the_host_lacks_is_not_mounted(host: Host) -> None:
    host.add_npus(0, 1, 2)
    arguments = host.arguments("--npus=2,0")
    devices = ("davinci2", "davinci0", "davinci_manager", "devmm_svm", "hisi_hdc")
    assert values(arguments, "--device") == [f"{host.files}/dev/{name}" for name in devices]
    driver = f"{host.files}/usr/local/Ascend/driver:/usr/local/Ascend/driver:ro"
    assert values(arguments, "--volume")[0] == driver and len(values(arguments, "--volume")) == 5


def test_the_user_joins_the_groups_of_the_devices(host: Host) -> None:
    host.add_npus(0, 1)
    groups = {0: os.getgid()}
    if os.getuid() == 0:
        groups[0] = 4321
        for path in (host.files / "dev").iterdir():
            os.chown(path, -1, 4321)
    assert values(host.arguments(), "--group-add") == [str(groups[0])]


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_a_chosen_kind_of_device(host: Host, kind: str) -> None:
    host.add_npus(0)
    arguments = host.arguments(f"--device={kind}")
    assert values(arguments, "--device") == [] and values(arguments, "--gpus") == ["all"] * (kind == "gpu")


@pytest.mark.parametrize("name", [HOSTILE, "-"])
def test_flags_and_command(host: Host, tmp_path: Path, name: str) -> None:
    """Relative folders start at the current folder; the command keeps its words."""
    data = tmp_path / name
    data.mkdir()
    flags = [f"--data={name}", "--models=new/models", f"--outputs={tmp_path}/out", "--shm-size=16g"]
    command = ["bash", "test/train_full_1p.sh", "--data_path=inputs/a b", "--", HOSTILE, ""]
    arguments = host.arguments(*flags, "--image=mine:1", "--", *command, cwd=tmp_path)
    assert values(arguments, "--volume")[:3] == [
        f"{data}:{WORKDIR}/inputs",
        f"{tmp_path}/new/models:{WORKDIR}/models",
        f"{tmp_path}/out:{WORKDIR}/outputs",
    ]
    assert values(arguments, "--shm-size") == ["16g"] and values(arguments, "--stop-timeout") == ["600"]
    assert arguments[arguments.index("mine:1") + 1 :] == command
    assert not list(tmp_path.rglob("ran"))


def test_the_exit_code_is_that_of_docker(host: Host) -> None:
    assert host.start(STUB_EXIT="37").returncode == 37


def test_a_terminal_is_passed_on(host: Host) -> None:
    master, terminal = os.openpty()
    command = [shutil.which("bash"), host.root / "docker_start.sh"]
    subprocess.run(command, env=host.env, stdin=terminal, stdout=terminal, stderr=terminal, timeout=20, check=True)
    os.close(master)
    os.close(terminal)
    arguments = host.record.read_text().split("\0")
    assert {"--interactive", "--tty"} < set(arguments) and "--stop-timeout" not in arguments


def test_help(host: Host) -> None:
    done = host.start("--help", PATH=os.environ["PATH"])
    assert done.returncode == 0 and done.stderr == "" and "--shm_size=SIZE" in done.stdout
    assert host.start("-h").stdout == done.stdout and not host.record.exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--gpus=all"], 'Unknown flag: "--gpus=all"'),
        (["bash"], "a command after --"),
        (["--image"], "--image needs a value"),
        (["--data="], "--data needs a value"),
        (["--device=tpu"], "npu, gpu, cpu or auto"),
        (["--device=npu"], "There is no "),
        (["--npus=0;1"], "--npus needs numbers"),
        (["--npus=3"], "dev/davinci3 (from --npus)"),
        (["--npus=0", "--device=cpu"], "--npus is not for --device=cpu"),
        (["--shm_size=big"], "--shm_size needs a size"),
        (["--image=-x"], "--image needs the name"),
        (["--data=nowhere"], 'There is no folder "nowhere" that can be opened (from --data).'),
        (["--data=with:colon"], "contains a colon"),
        (["--models=a_file/models"], 'Cannot create the folder "a_file/models".'),
    ],
)
def test_wrong_flags_are_one_sentence(host: Host, flags: list[str], words: str) -> None:
    (host.root / "with:colon").mkdir()
    (host.root / "a_file").touch()
    assert words in host.refused(*flags)


@pytest.mark.parametrize("missing", ["dev/davinci_manager", "dev/devmm_svm", "dev/hisi_hdc", "usr/local/Ascend/driver"])
def test_an_incomplete_driver_is_one_sentence(host: Host, missing: str) -> None:
    host.add_npus(0)
    (host.files / missing).rename(host.files / "away")
    assert f"There is no {host.files}/{missing}: install the Ascend driver" in host.refused()


def test_no_docker_is_one_sentence(host: Host, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(shutil.which(name))
    assert "There is no docker on the PATH" in host.refused(PATH=str(tools))


def dockerfile_steps() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, without comments and with joined lines."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.partition(" ") for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, value.strip()) for name, _, value in lines]


def test_dockerfile_installs_before_it_copies_the_code_and_is_not_run_by_root() -> None:
    steps = dockerfile_steps()
    assert steps[:2] == [("ARG", "BASE=python:3.11-slim"), ("FROM", "${BASE}")]
    install = next(number for number, (name, value) in enumerate(steps) if name == "RUN" and "pip install" in value)
    assert install < steps.index(("ARG", "UID=1000")) < steps.index(("COPY", ". ."))
    assert [value for name, value in steps if name == "USER"] == ["0", "${UID}:${GID}"]
    assert any(name == "ENV" and "PYTHONUNBUFFERED=1" in value for name, value in steps)
    libraries = next(value for name, value in steps if name == "ENV" and value.startswith("LD_LIBRARY_PATH="))
    # the path of BASE stays; an empty part would stand for the current folder
    assert libraries.endswith("/driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}")


TORCH = re.search(r"^torch==.+$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[0]
TORCH_NPU = re.search(r"^torch_npu==.+$", (ROOT / "requirements-npu.txt").read_text(), re.MULTILINE)[0]


@pytest.mark.parametrize(
    "present, args, calls, kept",
    [
        ("", {}, ["-r requirements.txt"], [TORCH, TORCH_NPU]),
        ("", {"REQUIREMENTS": "requirements-npu.txt"}, ["-r requirements-npu.txt"], [TORCH, TORCH_NPU]),
        (
            "",
            {"TORCH_INDEX": "an-index", "PIP_ARGS": "--retries 3"},
            [f"--retries 3 --index-url an-index {TORCH}", "--retries 3 -r requirements.txt"],
            [TORCH, TORCH_NPU],
        ),
        ("torch", {"TORCH_INDEX": "an-index"}, ["-r requirements.txt"], [TORCH_NPU]),
        ("torch torch_npu", {"REQUIREMENTS": "requirements-npu.txt"}, ["-r requirements-npu.txt"], []),
    ],
)
def test_dockerfile_installs_what_the_base_lacks(
    tmp_path: Path, present: str, args: dict[str, str], calls: list[str], kept: list[str]
) -> None:
    """The installation step, run by sh with a stub of python3 that has the packages of `present`."""
    step = next(value for name, value in dockerfile_steps() if name == "RUN" and "pip install" in value)
    for name in ("requirements.txt", "requirements-npu.txt"):
        shutil.copy(ROOT / name, tmp_path)
    stub = """#!/bin/sh
if [ "$1" = -c ]; then
    for package in $PRESENT; do case $2 in *"find_spec('$package')"*) exit 0 ;; esac; done
    exit 1
fi
echo "$*" >>calls
"""
    write_program(tmp_path / "bin" / "python3", stub)
    defaults = dict(value.split("=", 1) for name, value in dockerfile_steps() if name == "ARG")
    env = defaults | args | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PRESENT": present}
    subprocess.run(["sh", "-c", step], cwd=tmp_path, env=env, check=True, timeout=20)
    assert (tmp_path / "calls").read_text().splitlines() == [f"-m pip install {call}" for call in calls]
    left = (tmp_path / "requirements.txt").read_text() + (tmp_path / "requirements-npu.txt").read_text()
    assert re.findall(r"^torch.*$", left, re.MULTILINE) == kept


def test_dockerfile_looks_for_packages_without_importing_them(tmp_path: Path) -> None:
    """torch_npu cannot be imported while an image is built, because the driver is not there."""
    step = next(value for name, value in dockerfile_steps() if name == "RUN" and "pip install" in value)
    code = re.search(r'python3 -c "(.+?)"', step)[1]
    (tmp_path / "present.py").write_text("raise ImportError")
    for name, expected in [("present", 0), ("absent", 1)]:
        command = [shutil.which("python3"), "-c", code.replace("$package", name)]
        assert subprocess.run(command, cwd=tmp_path, timeout=20, check=False).returncode == expected


def test_nothing_that_git_ignores_gets_into_the_image() -> None:
    """Neither do data, models and git's own files."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name = line.strip("/")
            assert (name if line.startswith("/") else f"**/{name}") in ignored, line
    assert {".git", "inputs", "models", "outputs", "**/venv"} <= set(ignored)
