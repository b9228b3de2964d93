"""Log lines byte for byte, writing that survives a failure, and reading back what this and older editions wrote."""

import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import options
import utils
from errors import InputError
from files import replacing
from utils import AverageMeter, progress_line


def meter(name: str, fmt: str, *updates: tuple[float, int]) -> AverageMeter:
    made = AverageMeter(name, fmt)
    for value, count in updates:
        made.update(value, count)
    return made


# --- log lines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, fmt, value, mean, text",
    [
        ("Time", "6.3f", 0.123, 0.13, "Time  0.123 ( 0.130)"),
        ("Time", "6.3f", 123.4567, 99.5, "Time 123.457 (99.500)"),
        ("Data", "6.3f", 0.003, 0.004, "Data  0.003 ( 0.004)"),
        ("Loss", "6.8f", 0.98765432, 1.02345678, "Loss 0.98765432 (1.02345678)"),
        ("Iou", "6.4f", 0.4321, 0.4, "Iou 0.4321 (0.4000)"),
        ("Loss", ".4e", 1.2121, 1.2, "Loss 1.2121e+00 (1.2000e+00)"),
    ],
)
def test_meters_print_as_the_harness_reads_them(name: str, fmt: str, value: float, mean: float, text: str) -> None:
    assert str(meter(name, fmt, (2 * mean - value, 1), (value, 1))) == text


def test_a_meter_weights_by_count() -> None:
    made = meter("Iou", "6.4f", (0.5, 16), (0.25, 16), (1.0, 1))
    assert made.val == 1.0 and made.avg == pytest.approx((0.5 * 16 + 0.25 * 16 + 1) / 33)
    fresh = AverageMeter("Iou", "6.4f")
    assert fresh.avg == 0 and str(fresh) == "Iou 0.0000 (0.0000)"


def test_a_whole_training_line() -> None:
    meters = [
        meter("Time", "6.3f", (0.137, 1), (0.123, 1)),
        meter("Data", "6.3f", (0.005, 1), (0.003, 1)),
        meter("Loss", "6.8f", (1.05925924, 1), (0.98765432, 1)),
        meter("Iou", "6.4f", (0.3679, 1), (0.4321, 1)),
    ]
    expected = "Epoch: [1][ 5/33]\tTime  0.123 ( 0.130)\tData  0.003 ( 0.004)\tLoss 0.98765432 (1.02345678)"
    assert progress_line("Epoch: [1]", 5, 33, meters) == expected + "\tIou 0.4321 (0.4000)"


def test_a_whole_validation_line() -> None:
    meters = [
        meter("Time", "6.3f", (0.137, 1), (0.123, 1)),
        meter("Loss", ".4e", (1.1879, 1), (1.2121, 1)),
        meter("Iou", "6.4f", (0.1491, 16)),
    ]
    expected = "Test: [1/9]\tTime  0.123 ( 0.130)\tLoss 1.2121e+00 (1.2000e+00)\tIou 0.1491 (0.1491)"
    assert progress_line("Test: ", 1, 9, meters) == expected


@pytest.mark.parametrize(
    "step, total, text", [(1, 9, "[1/9]"), (1, 33, "[ 1/33]"), (33, 33, "[33/33]"), (7, 100, "[  7/100]")]
)
def test_steps_are_padded_to_the_width_of_the_total(step: int, total: int, text: str) -> None:
    assert progress_line("Epoch: [12]", step, total, []) == f"Epoch: [12]{text}"


@pytest.mark.parametrize("seed", [0, 5, 2**32 + 5])
def test_seeds_reach_every_generator(seed: int) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), torch.rand(1).item()

    utils.seed_everything(seed)
    one = draw()
    utils.seed_everything(seed + 1)
    other = draw()
    utils.seed_everything(seed)
    assert draw() == one and all(a != b for a, b in zip(one, other))


# --- writing ---------------------------------------------------------------------------------------------------------


def test_replacing_puts_the_new_file_in_place(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.tar.gz"
    for text in ("one", "two"):
        with replacing(target) as partial:
            assert partial.parent == target.parent and partial.suffix == ".gz" and partial != target
            partial.write_text(text)
            assert not target.exists() if text == "one" else target.read_text() == "one"
        assert target.read_text() == text and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("failure", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("written", [False, True])
def test_a_failure_leaves_the_old_file(tmp_path: Path, failure: type, written: bool) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    expected = InputError if failure is OSError else failure
    with pytest.raises(expected), replacing(target) as partial:
        if written:
            partial.write_text("half")
        raise failure
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """fsync must come before the rename: after a power cut the new name must not hold an empty file."""
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(InputError, match=r"file\.txt: cannot be written: No space left"), replacing(target) as partial:
        partial.write_text("new")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_writing_nothing_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(InputError, match=r"file\.txt: cannot be written"), replacing(target):
        pass
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


# --- run folders and config.yml --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dsb2018_96_UNet_woDS", "my run", "..x", "a.b", "核", "x-1"])
def test_run_folder(name: str) -> None:
    assert utils.run_folder(name) == Path("models") / name
    assert utils.run_folder(name, "outputs") == Path("outputs") / name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../x", "a/b", "/etc", "a/", "a\\b", "a\nb", "a\n", "a\rb", "a\0b", "-rf", "--name"),
        *("a\x1b[2Jb", "a\u202eb", "a\u2028b", "a\udc80b", "x" * 201),
    ],
)
def test_run_folder_refuses(name: str) -> None:
    with pytest.raises(InputError) as error:
        utils.run_folder(name)
    assert "--name" in str(error.value) and repr(name)[:99] in str(error.value) and str(error.value).isprintable()


def test_config_comes_back(tmp_path: Path) -> None:
    config = {"name": "Zellkerne ü 核", "lr": 1e-3, "milestones": [1, 2], "resume": None, "nesterov": False, "a": "no"}
    utils.save_config(config, tmp_path / "run")
    assert utils.load_config(tmp_path / "run") == config
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.yml"]
    assert "Zellkerne ü 核" in (tmp_path / "run" / "config.yml").read_text(encoding="utf-8")


def test_the_gpu_editions_config_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("arch: NestedUNet\nimg_ext: .png\nlr: 0.001\nname: x\nnum_workers: 0\n")
    expected = {"arch": "NestedUNet", "img_ext": ".png", "lr": 0.001, "name": "x", "num_workers": 0}
    assert utils.load_config(tmp_path) == expected


def test_no_config(tmp_path: Path) -> None:
    assert utils.load_config(tmp_path) == {} and utils.load_config(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    "content",
    [
        b"a: [1,",
        b"a: b: c",
        b"\ta: 1",
        b"- a\n- b",
        b"",
        b"only text",
        b"a: \xff\xfe",
        b"a: \x00",
        b"a: !!python/object/apply:os.system ['touch ran']",
        b"a: &x [1]\nb: *x",
        b"".join(b"k%d: &k%d [%s]\n" % (i, i, b", ".join([b"*k%d" % (i - 1)] * 9) if i else b"1") for i in range(30)),
        b"a: &x {b: 1}\nc:\n  <<: *x",
        b"a: " + b"[" * 60000,
        b"a: " + b"{a: " * 5000,
        b"a: " + b"9" * 60000,
        b"a: 2001-99-99",
        b"a: !!timestamp x",
        b"a: !!int ''",
        b"a: !!bool x",
        b"a: 1" + b":1" * 30000 + b".5",
        b"a: 1\n" + b"#" * 2**16,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_broken_config_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "config.yml"))) as error:
        utils.load_config(tmp_path)
    assert re.search("mend or remove|give a smaller file", str(error.value))
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert not (tmp_path / "ran").exists()


# --- finding a run's model, flags and data ---------------------------------------------------------------------------


def test_find_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("models/run")
    folder.mkdir(parents=True)
    (folder / "checkpoint.pth.tar").touch()  # the latest is not the best
    with pytest.raises(InputError, match=r"models/run.*model_best\.pth\.tar.*--name"):
        utils.find_model("run")
    (folder / "model.pth").touch()
    assert utils.find_model("run") == folder / "model.pth"
    (folder / "model_best.pth.tar").touch()
    assert utils.find_model("run") == folder / "model_best.pth.tar"
    with pytest.raises(InputError, match="--name"):
        utils.find_model("../run")


def test_settings_of(tmp_path: Path) -> None:
    """The checkpoint's own record, else config.yml beside it, and the recipe's defaults for what neither tells."""
    path = tmp_path / "model_best.pth.tar"
    recipe = vars(options.parse_train([]))
    assert utils.settings_of({}, path) == utils.SETTINGS == {flag: recipe[flag] for flag in utils.SETTINGS}
    utils.save_config({"loss": "BCEDiceLoss", "depth": 3}, tmp_path)
    expected = utils.SETTINGS | {"loss": "BCEDiceLoss", "depth": 3}
    assert utils.settings_of({}, path) == utils.settings_of({"config": None}, str(path)) == expected
    assert utils.settings_of({"config": {"input_h": 32, "seed": None}}, path) == utils.SETTINGS | {"input_h": 32}


@pytest.mark.parametrize(
    "junk",
    [
        {"input_h": "abc"},
        {"input_w": 0},
        {"loss": [1]},
        {"batch_size": -3},
        {"seed": "x"},
        {"img_ext": ""},
        {"img_ext": "png"},
        {"mask_ext": "/../../x.png"},
        {"mask_ext": ".."},
        {"dataset": "../x"},
        {"dataset": "/x"},
        {"dataset": "a\x1b[2J"},
        {"input_h": 10**6},
        {"input_w": 96.0},
        {"input_h": True},
        {"batch_size": 2**31},
        {"seed": 2**64},
        {"loss": "a b"},
    ],
    ids=str,
)
def test_junk_in_a_config_is_named(tmp_path: Path, junk: dict) -> None:
    utils.save_config(junk, tmp_path)
    ((flag, value),) = junk.items()
    with pytest.raises(InputError, match=re.escape(f"config.yml: {flag} cannot be {value!r}; the recipe has")):
        utils.settings_of({}, tmp_path / "model.pth")


@pytest.mark.parametrize(
    "config, told",
    [
        ({"input_h": 16**5000}, "input_h cannot be a number of thousands of digits"),
        ({"dataset": "x" * 9999}, "dataset cannot be 'xxx"),
        ({"loss": [16**5000]}, "loss cannot be a number of thousands of digits"),
        ({"data_path": 3}, "data_path cannot be 3"),
        ({"data_path": ["x"]}, "data_path cannot be ['x']"),
        ({"data_path": "x\0"}, "data_path cannot be 'x\\x00'"),
        ({"data_path": "x\n[Error] y"}, "data_path cannot be 'x\\n[Error] y'"),
        ({"data_path": "x" * 9999}, "data_path cannot be 'xxx"),
    ],
    ids=["digits", "long", "list", "number", "listed path", "NUL", "line", "long path"],
)
def test_junk_in_a_checkpoints_own_record_is_named(tmp_path: Path, config: dict, told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)) as error:
        utils.settings_of({"config": config}, tmp_path / "x.pth.tar")
    assert "x.pth.tar: " in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 600


@pytest.mark.parametrize(
    "data_path, settings, dataset, expected",
    [
        ("given", {"data_path": "recorded", "dataset": "old"}, "named", "given"),
        ("not/there", {"data_path": "recorded"}, None, "not/there"),  # an error about it must name it
        (None, {"data_path": "recorded", "dataset": "old"}, "named", "inputs/named"),
        (None, {"data_path": "recorded", "dataset": "old"}, None, "recorded"),
        (None, {"data_path": "/elsewhere/old", "dataset": "old"}, None, "inputs/old"),
        (None, {"data_path": "moved away", "dataset": "old"}, None, None),
        (None, {"dataset": "old"}, None, "inputs/old"),
        ("", {"data_path": None, "dataset": "old"}, "", "inputs/old"),
    ],
)
def test_find_data(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    data_path: str | None,
    settings: dict,
    dataset: str | None,
    expected: str | None,
) -> None:
    """`--data_path`, else `--dataset`, else the path recorded, else inputs/<dataset>; never quietly other data."""
    monkeypatch.chdir(tmp_path)
    Path("recorded").mkdir()
    if expected is None:
        with pytest.raises(InputError, match="moved away: the data that the model was trained on are gone"):
            utils.find_data(data_path, settings, dataset)
    else:
        assert utils.find_data(data_path, settings, dataset) == Path(expected)
