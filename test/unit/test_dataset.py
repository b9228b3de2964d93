"""Prepared data: the split, the recipe's augmentation by its frequencies, repeatable loading, and the complaints."""

import hashlib
import re
import shutil
from collections import Counter
from itertools import pairwise, product
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import augment
import cache
import checks
import dataset
import files
import utils
from augment import train_transform, val_transform
from cache import DecodedImages
from checks import check_dataset
from dataset import NucleiDataset, split_ids
from errors import InputError
from files import list_ids

DRAWS = 2000

# about the number of cores, of no interest here
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


def noise(height: int = 24, width: int = 24, seed: int = 0) -> np.ndarray:
    """A photograph's stand-in: no pixel is exactly 0 or 255."""
    return np.random.default_rng(seed).integers(20, 235, (height, width, 3), np.uint8)


def disc(height: int = 24, width: int = 24) -> np.ndarray:
    """A mask with soft edges, as preparation writes it."""
    mask = cv2.circle(np.zeros((height, width), np.uint8), (width // 2, height // 2), height // 4, 255, -1)
    return cv2.GaussianBlur(mask, (3, 3), 0)


def write_set(
    root: Path, ids: list[str], classes: int = 1, img_ext: str = ".png", mask_ext: str = ".png", image=None, mask=None
) -> Path:
    for folder in [root / "images", *(root / "masks" / str(k) for k in range(classes))]:
        folder.mkdir(parents=True)
    for n, img_id in enumerate(ids):
        cv2.imwrite(str(root / "images" / f"{img_id}{img_ext}"), noise(seed=n) if image is None else image)
        for k in range(classes):
            cv2.imwrite(str(root / "masks" / str(k) / f"{img_id}{mask_ext}"), disc() if mask is None else mask)
    return root


def numbered(count: int) -> list[str]:
    return [f"{i:04d}" for i in range(count)]


def near(count: int, probability: float, draws: int = DRAWS) -> bool:
    """Within five standard deviations of the expected number."""
    return abs(count - draws * probability) < 5 * (draws * probability * (1 - probability)) ** 0.5


def as_expected(counts: Counter, probabilities: dict) -> bool:
    """Pearson's test: the statistic has a mean of `cells - 1` and a standard deviation of sqrt(2 (cells - 1))."""
    draws, freedom = counts.total(), len(probabilities) - 1
    statistic = sum((counts[key] - draws * p) ** 2 / (draws * p) for key, p in probabilities.items())
    return set(counts) <= set(probabilities) and statistic < freedom + 5 * (2 * freedom) ** 0.5


# --- ids and split ---------------------------------------------------------------------------------------------------


def test_the_split_of_the_published_set() -> None:
    """scikit-learn's shuffle written out: a permutation, its first ⌈n/5⌉ for validation, the others for training."""
    ids = numbered(664)
    order = np.random.RandomState(41).permutation(664)
    train, val = split_ids(ids)
    assert (len(train), len(val)) == (531, 133)
    assert val == [ids[i] for i in order[:133]] and train == [ids[i] for i in order[133:]]
    digest = hashlib.sha256("\n".join(val).encode()).hexdigest()
    assert digest == "24755a74827b56dede9cc274e6cb1748292165ae681439c3302fddf24c5938e2"


def test_the_split_does_not_depend_on_the_order_of_the_listing() -> None:
    ids = numbered(101)
    assert split_ids(ids[::-1]) == split_ids(ids) == split_ids(ids[50:] + ids[:50])


def test_ids_are_sorted_whatever_the_disk_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    for name in ("b.png", "a.png", "10.png", "9.png", "x.y.png", "c.jpg", "d.png.txt", ".png"):
        (tmp_path / "images" / name).touch()
    expected = ["10", "9", "a", "b", "x.y"]
    assert list_ids(tmp_path) == expected
    listing = sorted((tmp_path / "images").glob("*.png"), reverse=True)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(listing))
    assert list_ids(tmp_path) == expected


def test_ids_by_extension(tmp_path: Path) -> None:
    write_set(tmp_path, ["a", "b.c"], img_ext=".jpg")
    cv2.imwrite(str(tmp_path / "images" / "other.png"), noise())
    assert list_ids(tmp_path, ".jpg") == ["a", "b.c"] and list_ids(tmp_path) == ["other"]


# --- augmentation ----------------------------------------------------------------------------------------------------


def turned(image: np.ndarray, quarters: int, flip: str | None) -> np.ndarray:
    image = np.rot90(image, quarters)
    if flip in ("vertical", "both"):
        image = image[::-1]
    if flip in ("horizontal", "both"):
        image = image[:, ::-1]
    return image


QUARTERS = {None: 1 / 2, 0: 1 / 8, 1: 1 / 8, 2: 1 / 8, 3: 1 / 8}
FLIPS = {None: 1 / 2, "vertical": 1 / 6, "horizontal": 1 / 6, "both": 1 / 6}
COLOURS = {"hue": 1 / 3, "brightness": 1 / 3, "contrast": 1 / 3}


@pytest.fixture(scope="module")
def draws(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of many draws did, seen in two ways: spies on the transforms' `apply`, and the pixels that came out.

    The spies look at the Compose's own call, which the data set comes by its pixels without.
    Image and mask hold one pattern, in grey, so that hue cannot change it and brightness and contrast keep its order.
    """
    rng = np.random.default_rng(0)
    pattern = rng.permutation(np.linspace(60, 190, 48 * 48)).reshape(48, 48).astype(np.uint8)
    root = write_set(tmp_path_factory.mktemp("pattern"), ["a"], image=cv2.merge([pattern] * 3), mask=pattern)
    calls: list[tuple[str, dict]] = []

    def spy(cls: type, name: str) -> None:
        original = cls.apply

        def apply(self, img: np.ndarray, *args, **params) -> np.ndarray:
            if img.shape[-1] == 3:  # the image; the mask has one channel
                calls.append((name, params))
            return original(self, img, *args, **params)

        patch.setattr(cls, "apply", apply)

    with pytest.MonkeyPatch.context() as patch:
        spy(A.RandomRotate90, "rotate")
        spy(A.VerticalFlip, "vertical")
        spy(A.HorizontalFlip, "horizontal")
        spy(A.HueSaturationValue, "hue")
        spy(A.RandomBrightnessContrast, "light")
        spy(A.Resize, "resize")
        spy(A.Normalize, "normalise")
        data = NucleiDataset(root, ["a"], train_transform(48, 48), seed=5)
        compose, (read, read_mask), found = train_transform(48, 48), data.read("a"), []
        for epoch in range(DRAWS):
            image, mask, _ = data[epoch, 0]
            calls.clear()
            compose.set_random_state(*augment.generators(5, epoch, 0))
            compose(image=read, mask=read_mask)
            found.append({"calls": calls.copy(), "image": image.numpy(), "mask": mask.numpy()[0], "pattern": pattern})
    for draw in found:
        names, params = [name for name, _ in draw["calls"]], dict(draw["calls"])
        flips = [name for name in names if name in ("vertical", "horizontal")]
        draw["names"], draw["params"] = names, params
        draw["quarters"] = params["rotate"]["factor"] if "rotate" in params else None
        draw["flip"] = "both" if len(flips) == 2 else flips[0] if flips else None
        if "light" in params:
            draw["colour"] = "brightness" if params["light"]["alpha"] == 1 else "contrast"
        else:
            draw["colour"] = "hue" if "hue" in params else None
    return found


def test_what_the_spies_saw_is_what_came_out(draws: list[dict]) -> None:
    """And the mask goes through the same geometry as the image, with its grey values as they were."""
    for draw in draws:
        expected = turned(draw["pattern"], draw["quarters"] or 0, draw["flip"])
        np.testing.assert_array_equal(draw["mask"], expected.astype(np.float32) / 255)
        for channel in draw["image"]:
            assert np.corrcoef(channel.ravel(), expected.ravel())[0, 1] > 0.99


def test_geometry_by_its_pixels_alone(draws: list[dict]) -> None:
    """The eight ways a square can lie, as often as independent rotations and flips make them."""
    pattern = draws[0]["pattern"]
    ways = {turned(pattern, *way).tobytes(): way for way in product(range(4), (None, "vertical"))}
    assert len(ways) == 8
    expected = Counter()
    for (quarters, p), (flip, q) in product(QUARTERS.items(), FLIPS.items()):
        expected[ways[turned(pattern, quarters or 0, flip).tobytes()]] += p * q
    seen = Counter(ways[(255 * draw["mask"]).round().astype(np.uint8).tobytes()] for draw in draws)
    assert as_expected(seen, expected)


@pytest.mark.parametrize(
    "key, probabilities", [("quarters", QUARTERS), ("flip", FLIPS), ("colour", COLOURS)], ids=lambda x: str(x)[:10]
)
def test_frequencies(draws: list[dict], key: str, probabilities: dict) -> None:
    counts = Counter(draw[key] for draw in draws)
    assert all(near(counts[value], p) for value, p in probabilities.items()), counts
    assert as_expected(counts, probabilities)


@pytest.mark.parametrize(
    "one, other",
    [
        (("quarters", QUARTERS), ("flip", FLIPS)),
        (("quarters", QUARTERS), ("colour", COLOURS)),
        (("flip", FLIPS), ("colour", COLOURS)),
    ],
    ids=["rotation and flip", "rotation and colour", "flip and colour"],
)
def test_draws_are_independent(draws: list[dict], one: tuple[str, dict], other: tuple[str, dict]) -> None:
    """Transforms seeded alike would be tied together: whatever is rotated would also be flipped."""
    counts = Counter((draw[one[0]], draw[other[0]]) for draw in draws)
    expected = {(a, b): p * q for (a, p), (b, q) in product(one[1].items(), other[1].items())}
    assert all(near(counts[key], p) for key, p in expected.items()), counts
    assert as_expected(counts, expected)


def test_draws_of_successive_epochs_are_independent(draws: list[dict]) -> None:
    pairs = Counter((a["flip"] is None, b["flip"] is None) for a, b in pairwise(draws))
    assert as_expected(pairs, dict.fromkeys(product((False, True), repeat=2), 1 / 4))


def test_order_of_the_transforms(draws: list[dict]) -> None:
    order = re.compile(r"(rotate )?(vertical |horizontal |vertical horizontal )?(hue |light )resize normalise ")
    for draw in draws:
        assert order.fullmatch("".join(f"{name} " for name in draw["names"])), draw["names"]


@pytest.mark.parametrize(
    "colour, value, low, high",
    [
        ("hue", lambda p: p["hue"]["hue_shift"], -20, 20),
        ("hue", lambda p: p["hue"]["sat_shift"], -30, 30),
        ("hue", lambda p: p["hue"]["val_shift"], -20, 20),
        ("brightness", lambda p: p["light"]["beta"] / 255, -0.2, 0.2),
        ("brightness", lambda p: p["light"]["alpha"], 1, 1),
        ("contrast", lambda p: p["light"]["alpha"], 0.8, 1.2),
        ("contrast", lambda p: p["light"]["beta"], 0, 0),
    ],
    ids=["hue", "saturation", "value", "brightness", "contrast stays", "contrast", "brightness stays"],
)
def test_ranges(draws: list[dict], colour: str, value, low: float, high: float) -> None:
    """All of the range and nothing beyond, evenly: a quarter of the values in each quarter of it."""
    values = np.array([value(draw["params"]) for draw in draws if draw["colour"] == colour])
    assert low <= values.min() and values.max() <= high
    if low < high:
        quarters = np.histogram(values, bins=4, range=(low, high))[0]
        assert all(near(count, 1 / 4, len(values)) for count in quarters)


def test_light_by_its_pixels(draws: list[dict]) -> None:
    """Brightness adds up to 0.2 of the whole range (51 levels), contrast multiplies by 0.8 to 1.2."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for draw in draws[:200]:
        grey = (255 * (255 * draw["image"].transpose(1, 2, 0) * std + mean)).mean(-1)
        plain = turned(draw["pattern"], draw["quarters"] or 0, draw["flip"]).astype(float)
        slope, offset = np.polyfit(plain.ravel(), grey.ravel(), 1)
        wide = {"hue": (1, 1, -20, 20), "brightness": (1, 1, -51, 51), "contrast": (0.8, 1.2, 0, 0)}[draw["colour"]]
        assert wide[0] - 0.01 < slope < wide[1] + 0.01 and wide[2] - 1 < offset < wide[3] + 1


def test_colours_change_and_masks_do_not(tmp_path: Path) -> None:
    """On a coloured image; a brightness or contrast of next to nothing may leave it as it was now and then."""
    root = write_set(tmp_path, ["a"], mask=disc())
    data = NucleiDataset(root, ["a"], train_transform(24, 24), seed=1)
    # sorted, so that turning and flipping cancel out
    plain = [np.sort(x.numpy(), axis=None) for x in NucleiDataset(root, ["a"], val_transform(24, 24))[0][:2]]
    changed = 0
    for epoch in range(60):
        image, mask = (np.sort(x.numpy(), axis=None) for x in data[epoch, 0][:2])
        changed += not np.array_equal(image, plain[0])
        np.testing.assert_array_equal(mask, plain[1])
    assert changed > 50


def test_training_resizes_last(tmp_path: Path) -> None:
    """Sides that differ: turned first, then stretched to the net's size."""
    root = write_set(tmp_path, ["a"], image=noise(20, 36), mask=disc(20, 36))
    data = NucleiDataset(root, ["a"], train_transform(32, 48))
    for epoch in range(20):
        image, mask, _ = data[epoch, 0]
        assert image.shape == (3, 32, 48) and mask.shape == (1, 32, 48)


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [(24, 40), (48, 80), (16, 32), (31, 17)], ids=str)
def test_validation_samples_by_their_formula(tmp_path: Path, side: tuple[int, int]) -> None:
    """(x/255 − mean)/std with RGB statistics on BGR channels, ÷255 once more, CHW; exact where nothing is resized."""
    image, mask = noise(24, 40, seed=3), noise(24, 40, seed=4)[..., 0]
    root = write_set(tmp_path, ["a"], image=image, mask=mask)
    x, y, meta = NucleiDataset(root, ["a"], val_transform(*side))[0]
    assert x.dtype == y.dtype == torch.float32 and x.is_contiguous() and y.is_contiguous()
    assert x.shape == (3, *side) and y.shape == (1, *side) and meta == {"img_id": "a"}
    blue_green_red = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float64))
    resized = F.interpolate(blue_green_red, size=side, mode="bilinear", align_corners=False)[0].numpy()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (resized / 255 - mean[:, None, None]) / std[:, None, None] / 255
    levels = 0 if side == (24, 40) else 1  # OpenCV rounds to whole grey levels
    np.testing.assert_allclose(x.numpy(), expected, rtol=0, atol=levels / 255 / 0.224 / 255 + 1e-7)
    # masks are resized to the nearest pixel: their edges are soft already
    rows, columns = (np.arange(n) * m // n for n, m in zip(side, mask.shape))
    np.testing.assert_array_equal(y.numpy()[0], mask[rows][:, columns].astype(np.float32) / 255)


@pytest.mark.parametrize("transform", [train_transform, val_transform])
def test_soft_edges_survive(tmp_path: Path, transform) -> None:
    data = NucleiDataset(write_set(tmp_path, ["a"]), ["a"], transform(24, 24))
    values = set(np.unique(data[0][1].numpy()).tolist())
    assert values == {np.float32(v) / np.float32(255) for v in np.unique(disc())}
    assert len([v for v in values if 0 < v < 1]) > 2 and {0.0, 1.0} < values


@pytest.mark.parametrize("transform", [train_transform, val_transform])
@pytest.mark.parametrize("classes", [1, 2, 3, 4, 11])
def test_classes_are_stacked_in_their_order(tmp_path: Path, transform, classes: int) -> None:
    """By number, not by name: 10 comes after 9."""
    root = write_set(tmp_path, ["a"], classes)
    for k in range(classes):
        cv2.imwrite(str(root / "masks" / str(k) / "a.png"), np.full((24, 24), 20 * k + 5, np.uint8))
    data = NucleiDataset(root, ["a"], transform(16, 32), num_classes=classes)
    for epoch in range(4):
        mask = data[epoch, 0][1]
        assert mask.shape == (classes, 16, 32)
        for k in range(classes):
            assert set(mask[k].flatten().tolist()) == {np.float32(20 * k + 5) / np.float32(255)}


@pytest.mark.parametrize("img_ext, mask_ext", [(".png", ".png"), (".jpg", ".png"), (".bmp", ".tif"), (".png", ".bmp")])
def test_other_extensions(tmp_path: Path, img_ext: str, mask_ext: str) -> None:
    root = write_set(tmp_path, ["a", "b.c"], 2, img_ext, mask_ext)
    assert check_dataset(root, img_ext, mask_ext, 2) == ["a", "b.c"]
    image, mask = NucleiDataset(root, ["b.c"], val_transform(24, 24), img_ext, mask_ext, 2).read("b.c")
    assert image.dtype == mask.dtype == np.uint8 and image.shape == (24, 24, 3) and mask.shape == (24, 24, 2)
    np.testing.assert_array_equal(mask[..., 1], disc())
    np.testing.assert_array_equal(image, cv2.imread(str(root / "images" / f"b.c{img_ext}")))


def test_grey_and_transparent_images_are_read_as_bgr(tmp_path: Path) -> None:
    root = write_set(tmp_path, ["grey", "alpha"])
    cv2.imwrite(str(root / "images" / "grey.png"), noise()[..., 0])
    cv2.imwrite(str(root / "images" / "alpha.png"), cv2.merge([*cv2.split(noise()), disc()]))
    data = NucleiDataset(root, ["grey", "alpha"], val_transform(24, 24))
    np.testing.assert_array_equal(data.read("grey")[0], cv2.merge([noise()[..., 0]] * 3))
    np.testing.assert_array_equal(data.read("alpha")[0], noise())


@pytest.mark.parametrize("gone", ["images/b.png", "masks/0/b.png"])
def test_a_file_that_vanished_is_named(tmp_path: Path, gone: str) -> None:
    root = write_set(tmp_path, ["a", "b"])
    (root / gone).unlink()
    with pytest.raises(InputError, match=re.escape(f"{root / gone}: No such file")):
        NucleiDataset(root, ["a", "b"], val_transform(24, 24))[1]


# --- loaders ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("small"), numbered(23))


def run_epochs(root: Path, workers: int, seed: int = 5, epochs: tuple[int, ...] = (0, 1)) -> list[list]:
    data = NucleiDataset(root, numbered(23), train_transform(32, 32), seed=seed)
    loader = dataset.train_loader(data, 4, workers)
    found = []
    for epoch in epochs:
        loader.batch_sampler.set_epoch(epoch)
        found.append([(x, y, meta["img_id"]) for x, y, meta in loader])
    return found


def same(one: list[list], other: list[list]) -> bool:
    return all(
        len(a) == len(b)
        and all(torch.equal(x, u) and torch.equal(y, v) and i == j for (x, y, i), (u, v, j) in zip(a, b))
        for a, b in zip(one, other)
    )


def test_training_batches_do_not_depend_on_workers(small_set: Path) -> None:
    alone = run_epochs(small_set, 0)
    assert same(alone, run_epochs(small_set, 0))
    assert same(alone, run_epochs(small_set, 1)) and same(alone, run_epochs(small_set, 3))
    assert same(alone[1:], run_epochs(small_set, 0, epochs=(1,)))  # as after resuming
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(alone, run_epochs(small_set, 0))  # nor on what the rest of the program draws


@pytest.mark.parametrize("other", [{"seed": 6}, {"epochs": (1, 0)}], ids=["seed", "epoch"])
def test_training_batches_differ_between(small_set: Path, other: dict) -> None:
    """In order, and image by image."""
    one, two = run_epochs(small_set, 0)[0], run_epochs(small_set, 0, **other)[0]
    order = [[i for _, _, ids in epoch for i in ids] for epoch in (one, two)]
    assert order[0] != order[1]
    images = [dict(zip(ids, torch.cat([x for x, _, _ in epoch]))) for ids, epoch in zip(order, (one, two))]
    shared = images[0].keys() & images[1].keys()
    assert len(shared) > 10 and not any(torch.equal(images[0][i], images[1][i]) for i in shared)


def test_training_drops_the_incomplete_batch(small_set: Path) -> None:
    batches = run_epochs(small_set, 0, epochs=(0,))[0]
    assert [x.shape for x, _, _ in batches] == [(4, 3, 32, 32)] * 5  # 23 images
    seen = [i for _, _, ids in batches for i in ids]
    assert len(set(seen)) == 20 and seen != sorted(seen)


def test_every_image_gets_its_turn(small_set: Path) -> None:
    """Shuffled afresh: which images an epoch drops changes."""
    dropped = [set(numbered(23)) - {i for _, _, ids in epoch for i in ids} for epoch in run_epochs(small_set, 0)]
    assert len(dropped[0]) == len(dropped[1]) == 3 and dropped[0] != dropped[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_takes_every_image_in_order(small_set: Path, workers: int) -> None:
    ids = split_ids(numbered(23))[1] + ["0000"]  # 6 of them, not in the order of their names
    loader = dataset.val_loader(NucleiDataset(small_set, ids, val_transform(32, 32)), 4, workers)
    assert len(ids) == 6 and [meta["img_id"] for _, _, meta in loader] == [ids[:4], ids[4:]]


def test_a_batch_larger_than_the_set_is_refused(small_set: Path) -> None:
    data = NucleiDataset(small_set, numbered(23), train_transform(32, 32))
    assert len(dataset.train_loader(data, 23, 0)) == 1
    with pytest.raises(InputError, match=r"--batch_size 24.* 23 "):
        dataset.train_loader(data, 24, 0)


def test_open_dataset(small_set: Path) -> None:
    settings = SETTINGS | {"input_h": 16, "input_w": 48, "seed": 9, "epochs": 3}
    train, val = dataset.open_dataset(small_set, 1, settings)
    assert (train.ids, val.ids) == split_ids(numbered(23)) and train.seed == 9
    assert train[0][0].shape == val[0][0].shape == (3, 16, 48)
    assert torch.equal(val[0][0], val[7, 0][0]) and not torch.equal(train[0][0], train[7, 0][0])


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_batches_from_memory_in_processes_however_started(small_set: Path, start: str) -> None:
    """And from memory alone: the files are gone by then. The same as those that one process reads."""
    settings = SETTINGS | {"input_h": 32, "input_w": 32, "seed": 5}
    folder = small_set.with_name(f"small {start}")
    shutil.copytree(small_set, folder)
    data = dataset.open_dataset(folder, 1, settings, cache_mb=9)[0]
    shutil.rmtree(folder)
    plain = NucleiDataset(small_set, data.ids, train_transform(32, 32), seed=5)
    loaders = [dataset.train_loader(one, 4, workers) for one, workers in ((data, 2), (plain, 0))]
    loaders[0].multiprocessing_context = start
    for (x, y, meta), (u, v, other) in zip(*loaders, strict=True):
        assert torch.equal(x, u) and torch.equal(y, v) and meta == other and x.is_shared()
        assert x.is_contiguous() and y.is_contiguous() and x.dtype == y.dtype == torch.float32


def test_single_items_are_those_of_the_batch(small_set: Path) -> None:
    data = NucleiDataset(small_set, numbered(23), train_transform(32, 48), seed=5)
    keys = [(3, 7), (3, 0), (4, 7), 5]
    images, masks, meta = data.__getitems__(keys)
    assert images.shape == (4, 3, 32, 48) and masks.shape == (4, 1, 32, 48) and meta["unreadable"] == []
    for x, y, img_id, key in zip(images, masks, meta["img_id"], keys):
        image, mask, own = data[key]
        assert torch.equal(x, image) and torch.equal(y, mask) and own == {"img_id": img_id}


@pytest.mark.parametrize("replace_bad", [False, True])
def test_batches_with_unreadable_images(tmp_path: Path, replace_bad: bool) -> None:
    root = write_set(tmp_path, ["a", "b", "c"])
    data = NucleiDataset(root, ["a", "b", "c"], val_transform(24, 24), skip_bad=True, replace_bad=replace_bad)
    whole = [data[k][0] for k in range(3)]
    (root / "images" / "b.png").write_text("hello")
    images, masks, meta = data.__getitems__([1, 0, 1, 2])
    ids = ["c", "a", "c", "c"] if replace_bad else ["a", "c"]
    assert meta["img_id"] == ids and len(images) == len(masks) == len(ids)
    assert all(torch.equal(x, whole["abc".index(img_id)]) for x, img_id in zip(images, ids))
    assert len(meta["unreadable"]) == 2 and "images/b.png: not a readable" in meta["unreadable"][0]
    if not replace_bad:
        assert data.__getitems__([1, 1])[:2] == (None, None) and data[1][0] is None
        assert data[1][2].keys() == {"img_id", "unreadable"} and data[1][2]["img_id"] == "b"


# --- decoded images in memory ----------------------------------------------------------------------------------------

SETTINGS = utils.SETTINGS | {"input_h": 24, "input_w": 24, "seed": 5}


@pytest.fixture
def mixed_set(tmp_path: Path) -> Path:
    """Images of several sizes, two classes."""
    root = write_set(tmp_path, numbered(6), classes=2)
    for n, (height, width) in enumerate([(24, 40), (1, 7), (100, 90)]):
        cv2.imwrite(str(root / "images" / f"000{n}.png"), noise(height, width, seed=9))
        for k in range(2):
            cv2.imwrite(str(root / "masks" / str(k) / f"000{n}.png"), 255 * (noise(height, width, seed=k)[..., k] > 90))
    return root


def test_files_are_decoded_once(mixed_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = NucleiDataset(mixed_set, numbered(6), val_transform(24, 24), num_classes=2)
    wanted = {img_id: plain.read(img_id) for img_id in numbered(6)}
    reads = Counter()
    for name in ("read_image", "read_mask"):
        original = getattr(files, name)
        monkeypatch.setattr(checks, name, lambda path, original=original: reads.update([path]) or original(path))
    parts = dataset.open_dataset(mixed_set, 2, SETTINGS, cache_mb=9)
    assert set(reads.values()) == {1} and len(reads) == 18
    shutil.rmtree(mixed_set / "images")
    for data in parts:
        for img_id in data.ids:
            for _ in range(2):  # what is done to one's own copy stays there
                found = data.read(img_id)
                for array, expected in zip(found, wanted[img_id], strict=True):
                    assert array.dtype == np.uint8
                    np.testing.assert_array_equal(array, expected)
                    array[:] = 0
    assert str(parts[0].decoded) == "decoded images: 0 MB in memory, shared by the loading processes"


def test_all_are_kept_or_none(mixed_set: Path) -> None:
    ids = check_dataset(mixed_set, num_classes=2)
    plain = NucleiDataset(mixed_set, ids, val_transform(24, 24), num_classes=2)
    size = sum(array.size for img_id in ids for array in plain.read(img_id))
    for megabytes, kept in ((size / 1e6, ids), ((size - 1) / 1e6, [])):
        decoded = DecodedImages(megabytes)
        assert check_dataset(mixed_set, num_classes=2, keep=decoded.add) == ids
        decoded.close()
        assert [img_id for img_id in ids if img_id in decoded] == kept and decoded.needed == size
    train = dataset.open_dataset(mixed_set, 2, SETTINGS)[0]
    assert not train.decoded.places and train[0][0].shape == (3, 24, 24)
    text = "decoded images would take 0 MB, above --cache_mb 0: they are read from the disk in each epoch"
    assert str(train.decoded) == text


def test_no_memory_to_keep_them_in(mixed_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(cache.mmap, "mmap", refuse)
    train = dataset.open_dataset(mixed_set, 2, SETTINGS, cache_mb=9)[0]
    assert not train.decoded.places and train[0][0].shape == (3, 24, 24) and "no 0 MB of memory" in str(train.decoded)


def test_unreadable_images_are_not_kept(mixed_set: Path) -> None:
    bad = mixed_set / "images" / "0004.png"
    content = bad.read_bytes()
    bad.write_text("hello")
    parts = dataset.open_dataset(mixed_set, 2, SETTINGS | {"skip_bad": True}, cache_mb=9)
    assert sorted(parts[0].decoded.places) == [img_id for img_id in numbered(6) if img_id != "0004"]
    (data,) = (part for part in parts if "0004" in part.ids)
    with pytest.raises(InputError, match=r"0004\.png: not a readable"):
        data.read("0004")
    bad.write_bytes(content)  # it is looked for where it was
    assert data.read("0004")[0].shape == (24, 24, 3)


# --- complaints ------------------------------------------------------------------------------------------------------


def complaint(root: Path, *args) -> str:
    with pytest.raises(InputError) as error:
        check_dataset(root, *args)
    return str(error.value)


def test_a_sound_set_passes(tmp_path: Path) -> None:
    """Soft edges, an image without nuclei, and one with a single faint speck."""
    root = write_set(tmp_path, ["b", "a", "c", "d"])
    cv2.imwrite(str(root / "masks" / "0" / "a.png"), np.zeros((24, 24), np.uint8))
    speck = np.zeros((24, 24), np.uint8)
    speck[3, 3:6] = 9
    cv2.imwrite(str(root / "masks" / "0" / "c.png"), speck)
    (root / "images" / "notes.txt").write_text("not an image")
    assert check_dataset(root) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("kind", ["black ground", "white ground"])
def test_dim_images_do_not_look_like_masks(tmp_path: Path, kind: str) -> None:
    """Fluorescence has most of its pixels at exactly 0, brightfield at 255."""
    image = (noise() // 4 if kind == "black ground" else 255 - noise() // 4) * (disc()[..., None] > 0)
    if kind == "white ground":
        image[disc() == 0] = 255
    assert np.isin(image, (0, 255)).mean() > 0.6
    root = write_set(tmp_path, numbered(6), image=image.astype(np.uint8))
    assert check_dataset(root) == numbered(6)


def test_no_data_folder(tmp_path: Path) -> None:
    text = complaint(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in text and "preprocess_dsb2018.py" in text and "images/" in text


@pytest.mark.parametrize("misnamed", [None, "imgs", "image", "img"])
def test_no_images_folder(tmp_path: Path, misnamed: str | None) -> None:
    (tmp_path / (misnamed or "masks")).mkdir()
    text = complaint(tmp_path)
    assert str(tmp_path / "images") in text and "no such folder" in text
    assert (f"rename {tmp_path / misnamed}" if misnamed else "put the images there") in text


@pytest.mark.parametrize("others, remedy", [((".jpg", ".tif"), ".jpg, .tif: pass --img_ext"), ((), "put some there")])
def test_no_images_of_that_extension(tmp_path: Path, others: tuple[str, ...], remedy: str) -> None:
    write_set(tmp_path, [])
    for ext in others:
        cv2.imwrite(str(tmp_path / "images" / f"a{ext}"), noise())
    text = complaint(tmp_path)
    assert f"{tmp_path / 'images'}: no .png images" in text and remedy in text


def test_a_single_image_cannot_be_split(tmp_path: Path) -> None:
    text = complaint(write_set(tmp_path, ["a"]))
    assert str(tmp_path / "images") in text and "at least two" in text


@pytest.mark.parametrize("loose", [False, True])
def test_no_class_folder(tmp_path: Path, loose: bool) -> None:
    root = write_set(tmp_path, ["a", "b"])
    if loose:  # the layout that other repositories use
        cv2.imwrite(str(root / "masks" / "a.png"), disc())
    text = complaint(root, ".png", ".png", 3)
    assert f"{root / 'masks' / '1'}: no such folder" in text and f"{root / 'masks' / '2'}: no such folder" in text
    assert f"{root / 'masks' / '0'}:" not in text and "(2 problems)" in text
    assert (f"move the masks in {root / 'masks'} into it" if loose else "each class has a folder") in text


def test_no_masks_at_all(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), noise())
    assert str(tmp_path / "masks" / "0") in complaint(tmp_path)


# what is done to sample "c" of class 0, and the words that its line must hold: cause and remedy
SPOILED = {
    "image cut short": (lambda i, m: i.write_bytes(i.read_bytes()[:1500]), "images/c.png", "not a readable", "replace"),
    "image empty": (lambda i, m: i.write_bytes(b""), "images/c.png", "not a readable", "replace"),
    "image is text": (lambda i, m: i.write_text("hello"), "images/c.png", "not a readable", "take it out"),
    "mask missing": (lambda i, m: m.unlink(), "masks/0/c.png", "no mask for", "add it"),
    "mask is text": (lambda i, m: m.write_text("hello"), "masks/0/c.png", "not a readable", "replace"),
    "mask of another size": (
        lambda i, m: cv2.imwrite(str(m), disc(24, 30)),
        "masks/0/c.png",
        "mask is 30×24, its image 24×24",
        "resize",
    ),
    "mask of 0 and 1": (
        lambda i, m: cv2.imwrite(str(m), disc() // 255),
        "masks/0/c.png",
        "above 127",
        "multiply 0/1 masks by 255",
    ),
    "mask of labels": (
        lambda i, m: cv2.imwrite(str(m), disc() // 50),
        "masks/0/c.png",
        "above 127",
        "each class a folder",
    ),
    "mask of numbered nuclei": (
        lambda i, m: cv2.imwrite(
            str(m), np.kron(np.arange(1, 65, dtype=np.uint8).reshape(8, 8), np.ones((3, 3), np.uint8))
        ),
        "masks/0/c.png",
        "only 0 of 576 marked pixels are above 127",
        "make every numbered nucleus 255",
    ),
    "mask of numbered nuclei in 16 bits": (
        lambda i, m: cv2.imwrite(
            str(m), np.kron(np.arange(900, 916, dtype=np.uint16).reshape(4, 4), np.ones((6, 6), np.uint16))
        ),
        "masks/0/c.png",
        "a uint16 mask of 16 values",
        "masks have 8 bits, 0 and 255",
    ),
}


def test_masks_too_small_to_tell_one_by_one_are_told_together(tmp_path: Path) -> None:
    """0/1 masks with a nucleus of a few pixels each; and masks that mark nothing at all, which would score 1."""
    for value in (1, 0):
        root = write_set(tmp_path / str(value), numbered(6))
        for img_id in numbered(6):
            mask = np.zeros((24, 24), np.uint8)
            mask[3:6, 3:6] = value
            cv2.imwrite(str(root / "masks" / "0" / f"{img_id}.png"), mask)
        assert f"{root / 'masks' / '0'}: no mask there has a pixel above 127" in complaint(root)


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_sample_is_named(tmp_path: Path, case: str) -> None:
    root = write_set(tmp_path, ["a", "b", "c", "d"])
    spoil, path, cause, remedy = SPOILED[case]
    spoil(root / "images" / "c.png", root / "masks" / "0" / "c.png")
    text = complaint(root)
    (line,) = [line for line in text.splitlines() if line.startswith("  ")]
    assert line.strip().startswith(str(root / path)) and cause in line and remedy in line
    assert str(root) in text.splitlines()[0] and "(1 problem" in text


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Also in the masks of a class that comes later."""
    ids = [f"{n:02d}" for n in range(len(SPOILED))]
    root = write_set(tmp_path, [*ids, "fine"], classes=2)
    for img_id, (spoil, _, _, _) in zip(ids, SPOILED.values()):
        spoil(root / "images" / f"{img_id}.png", root / "masks" / "0" / f"{img_id}.png")
    (root / "masks" / "1" / "fine.png").unlink()
    text = complaint(root, ".png", ".png", 2)
    assert f"({len(SPOILED) + 1} problems)" in text
    for img_id, (_, path, cause, remedy) in zip(ids, SPOILED.values()):
        path = str(root / path).replace("c.png", f"{img_id}.png")
        assert any(path in line and cause in line and remedy in line for line in text.splitlines()), path
    assert str(root / "masks" / "1" / "fine.png") in text


def test_a_missing_class_folder_does_not_hide_a_broken_image(tmp_path: Path) -> None:
    root = write_set(tmp_path, ["a", "b", "c"])
    (root / "images" / "b.png").write_text("hello")
    text = complaint(root, ".png", ".png", 2)
    assert str(root / "masks" / "1") in text and str(root / "images" / "b.png") in text


def test_a_long_list_is_counted(tmp_path: Path) -> None:
    root = write_set(tmp_path, numbered(25))
    for img_id in numbered(25):
        (root / "masks" / "0" / f"{img_id}.png").unlink()
    text = complaint(root)
    assert "(25 problems)" in text and "and 5 more" in text
    assert [line.split("/")[-1] for line in re.findall(r"masks/0/\d{4}", text)] == numbered(20)


def test_swapped_images_and_masks(tmp_path: Path) -> None:
    root = write_set(tmp_path, numbered(4))
    (root / "images").rename(root / "kept")
    (root / "masks" / "0").rename(root / "images")
    (root / "kept").rename(root / "masks" / "0")
    text = complaint(root)
    assert "swapped" in text and str(root / "images") in text and str(root / "masks") in text and "exchange" in text
