"""A compiled net and one in NHWC train as the plain one does."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, needs_compiler, weights_of

import archs
import compiling
import engine
import options
import runtime as rt
import train as train_script
from errors import InputError


def train(home, *flags: str) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """log.csv's columns of a run's numbers, and its weights."""
    more = ("--num_workers", "0", "--name", "run", "--epochs", "2", "--scheduler", "ConstantLR")
    train_script.main(options.parse_train(["inputs/discs", *TINY, *more, *flags]))
    folder = home / "models" / "run"
    rows = pd.read_csv(folder / "log.csv").drop(columns="images_per_s")
    return rows, weights_of(folder / "checkpoint.pth.tar")


@pytest.mark.usefixtures("narrow", "unplotted")
@pytest.mark.parametrize("flag", ["--channels_last", pytest.param("--compile", marks=needs_compiler)])
def test_training_is_the_plain_one(home, flag, capsys, monkeypatch):
    compiled, compile_net = [], compiling.compiled
    monkeypatch.setattr(compiling, "compiled", lambda *args: compiled.append(compile_net(*args)) or compiled[-1])
    rows, weights = train(home)
    capsys.readouterr()
    found, others = train(home, flag)
    assert ("the net is compiled in the first step" in capsys.readouterr().out) == (flag == "--compile")
    assert len(compiled) == (flag == "--compile")
    last = others["conv0_0.conv2.weight"].is_contiguous(memory_format=torch.channels_last)
    assert last == (flag == "--channels_last"), "the checkpoint has the layout that the run had"
    for key in ("loss", "iou", "val_loss", "val_iou"):
        assert found[key].to_numpy() == pytest.approx(rows[key].to_numpy(), abs=2e-3), key
    for name, value in weights.items():
        assert value.dtype == others[name].dtype
        if "running_var" in name:  # weights ahead of a BatchNorm wander by rounding noise, what they do does not
            assert torch.allclose(value, others[name], rtol=0.05, atol=1e-4), name


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_compilers_upsampling_is_torchs(channels_last):
    x = torch.randn(2, 3, 5, 7, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    gradient = torch.randn(2, 3, 10, 14)
    laid_out = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    found, expected = (
        compiling.upsample(laid_out),
        F.interpolate(other, scale_factor=2.0, mode="bilinear", align_corners=True),
    )
    assert torch.equal(found, expected)
    found.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(x.grad, other.grad)
    torch.library.opcheck(compiling.upsample, (x.detach().requires_grad_(),))


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="and no-such-compiler is not there; leave it out"):
        compiling.compiled(archs.UNet(1), rt.init("cpu"))


@pytest.mark.parametrize(
    "kind, triton, compiler, told",
    [
        ("npu", True, True, "torch_npu compiles by other means"),
        ("cuda", False, True, "needs triton and a C compiler"),
        ("cuda", True, False, "needs triton and a C compiler"),
        ("cuda", True, True, ""),
    ],
)
def test_what_is_lacking_on_accelerators(kind, triton, compiler, told, monkeypatch):
    monkeypatch.setattr(rt.importlib.util, "find_spec", lambda name: (triton and name == "triton") or None)
    monkeypatch.setattr(rt.shutil, "which", lambda name: (compiler and name == "gcc") or None)
    monkeypatch.delenv("CC", raising=False)
    runtime, model = rt.Runtime(SimpleNamespace(type=kind), 0), torch.nn.Identity()
    if told:
        with pytest.raises(InputError, match=f"--compile: .*{told}.*; leave it out"):
            compiling.compiled(model, runtime)
    else:
        assert compiling.compiled(model, runtime) is not model


def test_layouts():
    net = engine.lay_out_channels_last(archs.UNet(1), rt.init("cpu"))
    assert net.conv0_0.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(InputError, match="--channels_last: the NPU has memory formats of its own"):
        engine.lay_out_channels_last(net, rt.Runtime(SimpleNamespace(type="npu"), 0))
