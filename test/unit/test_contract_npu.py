"""Does the real torch_npu have what our sources use of it, and take the arguments they pass?

Its wheel is fetched, but neither installed nor imported, as that needs an NPU's drivers: all is read off its sources.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from contract_uses import Use, uses_in
from contract_wheel import Lacking, Wheel

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(__file__).with_name(".wheel")


@pytest.fixture(scope="session")
def wheel() -> Wheel:
    """The wheel that requirements-npu.txt asks for, fetched once."""
    version = re.search(r"^torch_npu==(\S+)", (ROOT / "requirements-npu.txt").read_text(), re.M)[1]
    if not list(CACHE.glob(f"torch_npu-{version}-*.whl")):
        # for one platform, whatever this one is: the sources are the same
        target = ["--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--implementation", "cp"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", *target]
        try:
            done = subprocess.run(
                [*command, "--retries", "1", "--timeout", "60", "--dest", CACHE, f"torch_npu=={version}"],
                capture_output=True,
                text=True,
                timeout=180,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"torch_npu {version} could not be fetched in 180 s")
        if done.returncode:
            pytest.skip(f"torch_npu {version} could not be fetched: {done.stderr.strip().splitlines()[-1:]}")
    return Wheel(next(CACHE.glob(f"torch_npu-{version}-*.whl")))


def problems(wheel: Wheel, uses: list[Use]) -> list[str]:
    """One line for each use that the wheel has nothing for."""
    found = []
    for use in uses:
        try:
            wheel.check(use)
        except Lacking as error:
            found.append(f"{use} — {error}")
    return found


def test_the_real_one_has_what_we_use(wheel: Wheel) -> None:
    uses = uses_in({path.name: path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("*.py"))})
    print(f"checked against {Path(wheel.zip.filename).name}:", *uses, sep="\n  ")
    assert problems(wheel, uses) == []
    used = {use.name for use in uses}
    assert {"torch_npu.npu.set_device", "torch_npu.optim.NpuFusedAdam", "torch_npu.npu.amp.GradScaler"} <= used


@pytest.mark.parametrize(
    "source, complaint",
    [
        ("torch.npu.set_device(0)", None),
        ("torch.npu.set_devise(0)", "has no set_devise"),
        ("torch.npu.set_device(0, 1)", "takes 1 positional"),
        ("torch.npu.set_device()", "needs device"),
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
        ("def f(): return torch.npu", "is handed on"),
        ("import torch_npu; f(torch_npu)", "is handed on"),
        ("f(torch.npu.conv)", "is handed on"),
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


def test_torch_npu_module_is_torch_npu(wheel: Wheel) -> None:
    """That `torch.npu` is `torch_npu.npu`."""
    assert any(
        re.search(r'^\s*torch\._register_device_module\("npu", torch_npu\.npu\)', wheel.text(file), re.M)
        for file in wheel.files
        if (file.startswith("torch_npu/_init/") and file.endswith(".py")) or file == "torch_npu/__init__.py"
    )


def test_the_collective_back_end_is_hccl(wheel: Wheel) -> None:
    names = set()
    for file in wheel.files:
        if (
            file.endswith(".py")
            and wheel.zip.getinfo(file).file_size < 500_000
            and "register_backend(" in wheel.text(file)
        ):
            for node in ast.walk(ast.parse(wheel.text(file))):
                if (
                    isinstance(node, ast.Call)
                    and ast.unparse(node.func) == "torch.distributed.Backend.register_backend"
                ):
                    devices = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}.get("devices")
                    names |= {node.args[0].value} if devices == "['npu']" else set()
    assert "hccl" in names
    runtime = ast.parse((ROOT / "runtime.py").read_text(encoding="utf-8"))
    assert "hccl" in {node.value for node in ast.walk(runtime) if isinstance(node, ast.Constant)}


def test_environment_variables_are_known(wheel: Wheel) -> None:
    """Those that test/env_npu.sh exports; CANN's own are not the wheel's to know."""
    script = ROOT / "test" / "env_npu.sh"
    if not script.is_file():
        pytest.skip("there is no test/env_npu.sh")
    exports = re.findall(r"^\s*export\s+(.+)$", script.read_text(encoding="utf-8"), re.M)
    names = {name for line in exports for name in re.findall(r"\b([A-Za-z_]\w*)=", line)}
    names = {name for name in names if not re.match(r"ASCEND_|HCCL_|(LD_LIBRARY_|PYTHON)?PATH$", name)}
    print("looked for:", *sorted(names))
    assert wheel.libraries_without([rf"\b{name}\b" for name in sorted(names)], also_sources=True) == []


def test_a_dead_variable_is_found(wheel: Wheel) -> None:
    dead, alive = r"\bPTCOPY_ENABLE\b", r"\bTASK_QUEUE_ENABLE\b"
    assert wheel.libraries_without([dead, alive], also_sources=True) == [dead]
