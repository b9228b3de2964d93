# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Does the real torch_npu have what our sources use of it, and does it take the arguments that they pass?

Its wheel is downloaded, but neither installed nor imported, because that needs the drivers of an NPU. The tests read
the syntax trees of its sources.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, STANDIN_NPU, UNIT
from helpers.contract_uses import Use, uses_in
from helpers.contract_wheel import Missing, Wheel

from runtime.device import BACKENDS

CACHE = UNIT / ".wheel"
FOLDERS = ("runtime", "imaging", "evaluation", "exporting", "options", "infer", "benchmarks")
SOURCES = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py"))]


# for one fixed platform, because the sources are the same for all
PLATFORM = ("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--implementation", "cp")
# the newest release only if `bash test/run_tests.sh --newest` asks for it, so that a release breaks no other test run
CHECKED = ["pinned", *(["newest"] if os.environ.get("NEWEST_TORCH_NPU") else [])]


def pip(*arguments: object) -> str:
    """Return what a command of pip prints; skips the test if the command fails, as without a network."""
    line = ["pip", *map(str, arguments)]
    command = [sys.executable, "-m", *line, *PLATFORM, "--only-binary", ":all:", "--retries", "1", "--timeout", "60"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index does not answer: {' '.join(line)} did not end in 180 s")
    if result.returncode:
        reason = result.stderr.strip().splitlines()[-1:]
        pytest.skip(f"the package index cannot be used: {' '.join(line)} failed: {reason}")
    return result.stdout


def download(version: str) -> Wheel:
    """Return the wheel of a version, which is downloaded once, about 44 MB."""
    if not list(CACHE.glob(f"torch_npu-{version}-*.whl")):
        pip("download", "--quiet", "--no-deps", "--dest", CACHE, f"torch_npu=={version}")
    return Wheel(next(CACHE.glob(f"torch_npu-{version}-*.whl")))


def listed_versions(package: str) -> list[str]:
    """Return the released versions of a package that pip's index lists."""
    return re.search(r"^Available versions: (.+)$", pip("index", "versions", package), re.M)[1].split(", ")


def newest_pair(torch_npu: list[str], torch: list[str]) -> str:
    """Return the newest version of torch_npu whose torch is released; 2.13.0.post2 belongs to torch 2.13.0."""
    released = {version.partition("+")[0] for version in torch}
    paired = [version for version in torch_npu if version.partition(".post")[0] in released]
    return max(paired, key=lambda version: [int(number) for number in re.findall(r"\d+", version)])


@pytest.fixture(scope="session")
def wheel() -> Wheel:
    """The wheel of the version in requirements-npu.txt."""
    return download(re.search(r"^torch_npu==(\S+)", (ROOT / "requirements-npu.txt").read_text(), re.M)[1])


@pytest.fixture(scope="session", params=CHECKED)
def each_wheel(request: pytest.FixtureRequest) -> Wheel:
    """The wheel of the version in requirements-npu.txt and, if asked for, that of the newest release."""
    if request.param == "pinned":
        return request.getfixturevalue("wheel")
    return download(newest_pair(listed_versions("torch_npu"), listed_versions("torch")))


def problems(wheel: Wheel, uses: list[Use]) -> list[str]:
    """Return a line for each use that does not fit the wheel."""
    found = []
    for use in uses:
        try:
            wheel.check(use)
        except Missing as error:
            found.append(f"{use} — {error}")
    return found


def test_the_wheel_has_all_that_we_use(each_wheel: Wheel) -> None:
    uses = uses_in({str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(SOURCES)})
    print(f"checked against {Path(each_wheel.zip.filename).name}:", *uses, sep="\n  ")
    assert problems(each_wheel, uses) == []
    used = {use.name for use in uses}
    assert {"torch_npu.npu.set_device", "torch_npu.optim.NpuFusedAdam", "torch_npu.npu.amp.GradScaler"} <= used
    assert {f"torch_npu.profiler.{name}" for name in ("profile", "schedule", "tensorboard_trace_handler")} <= used


@pytest.mark.parametrize(
    "source, complaint",
    [
        ("torch.npu.set_device(0)", None),
        ("torch.npu.set_devise(0)", "has no set_devise"),
        ("torch.npu.set_device(0, 1)", "takes 1 positional"),
        ("torch.npu.set_device()", "needs device as well"),
        ("torch.npu.set_device(*x)", "cannot tell"),
        ("torch.npu.set_compile_mode(jit=False)", "takes no argument jit"),
        ("torch.npu.set_compile_mode(False, jit_compile=True)", "gets jit_compile twice"),
        ("torch.npu.Event(enable_timing=True).record()", None),
        ("torch.npu.Event(timing=True)", "takes no argument timing"),
        ("torch.npu.conv.allow_hf32 = True", None),
        ("torch.npu.conv.allow_tf32 = True", "has no allow_tf32"),
        ("torch.npu.conv_allow_hf32 = True", "is a module"),
        ("x = torch.npu.matmul.allow_hf32", None),
        ("torch.npu.config.allow_internal_format = False", None),
        ("x = torch.npu.config.allow_internal_format", "has no allow_internal_format"),
        ("getattr(torch, kind).synchronise()", "has no synchronise"),
        ("torch.get_device_module(kind).synchronize()", None),
        ("import torch_npu.profiler as tool; tool.schedule(wait=1, warmup=1, active=2, repeat=1)", None),
        ("import torch_npu.profiler as tool; tool.schedule(wait=1)", "needs active"),
        ("from torch_npu import profiler; profiler.ProfilerActivity.NPU", None),
        ("from torch_npu import profiler; profiler.ProfilerActivity.GPU", "no source of the wheel uses it"),
        ("p = importlib.import_module('torch_npu').profiler; p.profile([])", "takes 0 positional"),
        ("import torch_npu; p = torch_npu.profiler if x else torch.profiler; p.trace()", "has no trace"),
        ("from torch_npu.optim import NpuFusedAdam as A; A(p, lr=1, fused=True)", "takes no argument fused"),
        ("from torch_npu.optim import FusedAdam", "has no FusedAdam"),
        ("import torch_npu.optimizers", "has no optimizers"),
        ("import torch_npu; torch_npu.npu.amp.GradScaler('npu', init_scale=1)", "gets init_scale twice"),
        ("def f(x, **more):\n import torch_npu\n torch_npu.optim.NpuFusedAdam(x, **more)\nf(1, lr=2)", None),
        (
            "def f(x, **more):\n import torch_npu\n torch_npu.optim.NpuFusedAdam(x, **more)\nf(1, rate=2)",
            "no argument rate",
        ),
        ("import torch_npu; torch_npu.optim.NpuFusedAdam(x, **more)", "cannot tell"),
        ("class A:\n def f(self): self.a = torch.npu\n def g(self): self.a.nothing()", "has no nothing"),
        ("class A:\n def f(self): self.a = torch.npu\n def g(self): self.a.is_available()", None),
        ("def f(): return torch.npu", "is passed on"),
        ("def f(): return 1, torch.npu\ndef g(): x, npu = a.f(); npu.set_device(0)", None),
        ("def f(): return 1, torch.npu\ndef g(): x, npu = a.f(); npu.nothing()", "has no nothing"),
        ("import torch_npu; f(torch_npu)", "is passed on"),
        ("f(torch.npu.conv)", "is passed on"),
        ("f(torch.npu.is_available)", None),
        ("def f(torch): torch.npu.nothing()", "unused"),
    ],
)
def test_the_checker_finds_mistakes(wheel: Wheel, source: str, complaint: str | None) -> None:
    uses = uses_in({"snippet": f"import importlib, torch\n{source}"})
    if complaint == "unused":
        assert uses == []
    elif complaint is None:
        assert uses and problems(wheel, uses) == []
    else:
        assert complaint in " ".join(problems(wheel, uses))


def test_the_newest_version_is_one_whose_torch_is_released() -> None:
    found = newest_pair(["2.9.1", "2.15.0", "2.14.0.post2", "2.14.0.post10"], ["2.14.0+cpu", "2.9.1", "2.14.1"])
    assert found == "2.14.0.post10"


def test_torch_dot_npu_is_a_module_of_torch_npu(each_wheel: Wheel) -> None:
    """`torch.npu` is `torch_npu.npu`."""
    assert any(
        re.search(r'^\s*torch\._register_device_module\("npu", torch_npu\.npu\)', each_wheel.text(file), re.M)
        for file in each_wheel.files
        if (file.startswith("torch_npu/_init/") and file.endswith(".py")) or file == "torch_npu/__init__.py"
    )


def test_the_backend_for_collectives_is_hccl(each_wheel: Wheel) -> None:
    names = set()
    for file in each_wheel.files:
        if (
            file.endswith(".py")
            and each_wheel.zip.getinfo(file).file_size < 500_000
            and "register_backend(" in each_wheel.text(file)
        ):
            for node in ast.walk(ast.parse(each_wheel.text(file))):
                if (
                    isinstance(node, ast.Call)
                    and ast.unparse(node.func) == "torch.distributed.Backend.register_backend"
                ):
                    devices = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}.get("devices")
                    names |= {node.args[0].value} if devices == "['npu']" else set()
    assert "hccl" in names
    assert BACKENDS["npu"] == "hccl"


def constants(source: str) -> dict[str, set]:
    """Return the tuples and lists of text, and the keys of dicts, that a source assigns to names."""
    found: dict[str, set] = {}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Assign, ast.AugAssign)) and isinstance(node.value, (ast.Tuple, ast.List, ast.Dict)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            elements = node.value.keys if isinstance(node.value, ast.Dict) else node.value.elts
            found.setdefault(target.id, set()).update(e.value for e in elements if isinstance(e, ast.Constant))
    return found


def test_transfer_to_npu_replaces_what_its_stand_in_replaces(each_wheel: Wheel) -> None:
    module = "torch_npu/contrib/transfer_to_npu.py"
    own = constants((STANDIN_NPU / module).read_text(encoding="utf-8"))
    text = each_wheel.text(module)
    real = constants(text)
    assert own["FUNCTIONS"] <= real["torch_fn_white_list"]
    assert own["TENSOR_METHODS"] <= real["torch_tensor_fn_white_list"]
    assert own["MODULE_METHODS"] == real["torch_module_fn_white_list"]
    assert own["DEVICE_ARGUMENTS"] == real["device_kwargs_list"]
    assert own["CUDA_NAMES"] <= constants(each_wheel.text("torch_npu/npu/__init__.py"))["__all__"]
    assigned = {
        ast.unparse(target)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Assign)
        for target in node.targets
    }
    assert {f"torch.{name}" for name in own["REPLACED"]} <= assigned and len(own["REPLACED"]) == 11
    for name in own["PROFILER_NAMES"]:
        assert f"['profiler.{name}', torch_npu.profiler.{name}]" in text
    assert 'os.getenv("TORCH_NPU_DEVICE_CAPABILITY")' in each_wheel.text("torch_npu/npu/__init__.py")
    assert 'os.getenv("TORCH_TRANSFER_TO_NPU"' in each_wheel.text("torch_npu/_init/core/optional_features.py")


def test_environment_variables_are_known(each_wheel: Wheel) -> None:
    """Those that test/env_npu.sh exports, except CANN's own, which the wheel need not know."""
    script = ROOT / "test" / "env_npu.sh"
    exports = re.findall(r"^\s*export\s+(.+)$", script.read_text(encoding="utf-8"), re.M)
    names = {name for line in exports for name in re.findall(r"\b([A-Za-z_]\w*)=", line)}
    names = {name for name in names if not re.match(r"ASCEND_|HCCL_|(LD_LIBRARY_|PYTHON)?PATH$", name)}
    assert names
    assert each_wheel.libraries_without([rf"\b{name}\b" for name in sorted(names)], also_sources=True) == []


def test_an_unknown_variable_is_found(wheel: Wheel) -> None:
    unknown, known = r"\bPTCOPY_ENABLE\b", r"\bTASK_QUEUE_ENABLE\b"
    assert wheel.libraries_without([unknown, known], also_sources=True) == [unknown]
