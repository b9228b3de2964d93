# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Files of the older editions: their weights are evaluated, segment, are exported, and training continues from them."""

import io
import pickle
import re

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from conftest import TINY, random_net
from helpers.short_runs import skip_training, use_fixed_scores

import demo
import engine
import options
import pthtar2onnx
import train
import val
from runtime.checkpoint import load_checkpoint
from runtime.distributed import init_runtime
from runtime.errors import InputError


def npu_edition(folder, net):
    """Write model_best.pth.tar: no `arch`, names from DistributedDataParallel, a NumPy scalar as best_iou."""
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-4)
    folder.mkdir(parents=True)
    best_iou = np.float64(0.8331)
    content = {"epoch": 7, "state_dict": state, "best_iou": best_iou, "optimizer": optimizer.state_dict()}
    torch.save(content, folder / "model_best.pth.tar")
    return folder / "model_best.pth.tar"


def gpu_edition(folder, net, **config):
    """Write model.pth, a bare state_dict, and config.yml with the flags of that edition."""
    folder.mkdir(parents=True)
    torch.save(net.state_dict(), folder / "model.pth")
    flags = {"name": folder.name, "epochs": 100, "batch_size": 4, "dataset": "discs", "img_ext": ".png"}
    flags |= {"mask_ext": ".png", "input_h": 32, "input_w": 32, "loss": "LovaszHingeLoss", **config}
    (folder / "config.yml").write_text(yaml.dump(flags))
    return folder / "model.pth"


NETS = {
    "UNet": {},
    "NestedUNet": {"arch": "NestedUNet"},
    "four heads": {"arch": "NestedUNet", "deep_supervision": True},
}


@pytest.mark.parametrize("edition", [npu_edition, gpu_edition])
@pytest.mark.parametrize("net", NETS)
def test_outputs_are_those_of_the_weights(home, edition, net):
    model = random_net(**NETS[net])
    path = edition(home / "models" / "old", model)
    loaded, _ = engine.load_model(path, init_runtime("cpu"))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected, found = model(x), loaded(x)
    if net == "four heads":
        assert len(found) == 4 and all(torch.equal(a, b) for a, b in zip(expected, found))
    else:
        assert torch.equal(expected, found)


@pytest.mark.parametrize("edition", [npu_edition, gpu_edition])
def test_val_demo_and_export_read_them(home, capsys, edition):
    model = random_net()
    edition(home / "models" / "old", model)
    val.main(options.parse_val(["--name", "old", "--data_path", "inputs/discs", "--num_workers", "0", "-b", "4"]))
    out = capsys.readouterr().out
    line = re.search(r"^\[npu id: 0 \] \[AVG-IOU\] \* Iou (\d\.\d{4})$", out, re.MULTILINE)
    assert out.splitlines()[-1] == f"IoU: {line[1]}"

    # the picture is sigmoid(logits) × 255 of the image as the recipe prepares it
    name = next((home / "outputs" / "old" / "0").glob("*.jpg")).stem
    image = cv2.imread(str(home / "inputs" / "discs" / "images" / f"{name}.png"))
    side = 32 if edition is gpu_edition else 96  # the NPU edition wrote no config.yml: the recipe's size
    image = cv2.resize(image, (side, side)).astype(np.float64)
    image = (image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225) / 255
    with torch.no_grad():
        logits = model(torch.from_numpy(image.transpose(2, 0, 1)[None]).float())
    expected = torch.sigmoid(logits)[0, 0].numpy() * 255
    found = cv2.imread(str(home / "outputs" / "old" / "0" / f"{name}.jpg"), cv2.IMREAD_GRAYSCALE)
    assert found.shape == (side, side)
    assert np.abs(found - expected).mean() < 4, "JPEG loses a little"

    demo.main(options.parse_demo(["--name", "old", "--data_path", "inputs/discs", "--num_workers", "0"]))
    assert f"{side}×{side}" in capsys.readouterr().out
    pthtar2onnx.main(
        options.parse_export(["--name", "old", "--output", "old.onnx", "--input_h", "32", "--input_w", "48"])
    )
    x = torch.randn(1, 3, 32, 48) / 255
    (found,) = onnxruntime.InferenceSession("old.onnx").run(["output1"], {"actual_input_1": x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x).numpy(), atol=1e-4)


def test_the_config_of_the_gpu_edition_names_its_data(home, capsys):
    gpu_edition(home / "models" / "old", random_net())
    val.main(options.parse_val(["--name", "old", "--num_workers", "0"]))
    assert "data: inputs/discs, 3 images" in capsys.readouterr().out


def test_an_input_size_that_the_net_cannot_take_is_padded(home, capsys):
    gpu_edition(home / "models" / "old", random_net(), input_h=40, input_w=33, seed=None)
    val.main(options.parse_val(["--name", "old", "--num_workers", "0"]))
    assert re.search(r"^IoU: \d\.\d{4}$", capsys.readouterr().out, re.MULTILINE)
    (picture, *_) = (home / "outputs" / "old" / "0").glob("*.jpg")
    assert cv2.imread(str(picture), cv2.IMREAD_GRAYSCALE).shape == (40, 33)


def test_an_old_checkpoint_continues_with_its_optimizer_and_names_what_it_lacks(home, monkeypatch, capsys):
    path = npu_edition(home / "models" / "old", random_net())
    seen = skip_training(monkeypatch)
    use_fixed_scores(monkeypatch, 0.5)
    train.main(options.parse_train(["inputs/discs", *TINY, "--epochs", "10", "--name", "new", "--resume", str(path)]))
    assert [row["epoch"] for row in seen] == [7, 8, 9], "seven epochs were finished"
    # cosine from 1e-3 to 1e-5 over 10 epochs, whatever learning rate the file's optimizer had
    expected = [1e-5 + (1e-3 - 1e-5) * (1 + np.cos(np.pi * epoch / 10)) / 2 for epoch in (7, 8, 9)]
    assert [row["lr"] for row in seen] == pytest.approx(expected)
    assert "holds no history" in capsys.readouterr().out
    # 0.8331 of the old file was better than the 0.5 since: it is the new run's best model
    assert (home / "models" / "new" / "model_best.pth.tar").read_bytes() == path.read_bytes()
    assert torch.load("models/new/checkpoint.pth.tar", weights_only=True)["best_iou"] == 0.8331


def test_a_pickle_that_would_run_a_command_is_not_run(home):
    class Command:
        def __reduce__(self):
            return (open, ("ran", "w"))

    buffer = io.BytesIO()
    pickle.dump({"state_dict": Command()}, buffer)
    (home / "bad.pth.tar").write_bytes(buffer.getvalue())
    torch.save({"state_dict": Command()}, "bad2.pth.tar")
    for name, reason in (("bad.pth.tar", "not a readable checkpoint"), ("bad2.pth.tar", r"it calls \w+\.open")):
        with pytest.raises(InputError, match=rf"{name}: .*nothing of it was run.*{reason}|{name}: {reason}.*nothing"):
            load_checkpoint(name)
    assert not (home / "ran").exists()
