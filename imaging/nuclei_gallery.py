# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The pictures and tables that show each nucleus of each image."""

from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from imaging import drawing, rle
from imaging.blocks import Seams, labels_on_disk
from imaging.gallery import Gallery
from imaging.instances import SplitSettings, find_nuclei
from imaging.label_files import import_roi, write_labels, write_rois
from imaging.large_image import LargeImage
from imaging.large_nuclei import find_large_nuclei, write_large_nuclei
from imaging.measures import measure_nuclei, summarize
from imaging.predictor import LargePrediction, Prediction, describe_diameters
from imaging.reader import write_image
from runtime import names
from runtime.files import atomic_write


class NucleiOutput(NamedTuple):
    """What is written of the nuclei besides pictures, label images and tables.

    pixel_size: micrometers per pixel, for the tables; None: they are in pixels. rois: also a zip for ImageJ by image.
    submission: file for the run lengths of the 2018 Data Science Bowl, None: there is none.
    """

    pixel_size: float | None = None
    rois: bool = False
    submission: Path | None = None


class _Painted(NamedTuple):
    nuclei: pd.DataFrame
    summary: dict
    strip: list[np.ndarray] | None
    runs: list[str]


class NucleiGallery(Gallery):
    """Writes each image's nuclei under `folder`: outlines, label images, a table of nuclei, a table of images."""

    def __init__(self, folder: Path, total: int, settings: SplitSettings, output: NucleiOutput, pool):
        """total: number of images. pool: a BackgroundPool. Raises InputError if `output` needs a missing package."""
        if output.rois:
            import_roi()  # before anything is written
        super().__init__(folder, total, settings.threshold, pool)
        self.settings, self.output, self.diameters = settings, output, []

    def add_prediction(
        self, name: str, path: Path, image: np.ndarray, prediction: Prediction, truth: np.ndarray | None = None
    ) -> None:
        """Add an image, uint8 BGR (H, W, 3), its prediction, and its true nuclei, labels (H, W), if they are known."""
        on_sheet = self.added in self.on_sheet
        self.futures.append(self.pool.submit(self._paint_nuclei, name, path, image, prediction, truth, on_sheet))

    def add_large(self, name: str, path: Path, image: LargeImage, prediction: LargePrediction) -> None:
        """Find the nuclei of a large image in this thread, by blocks; its pictures are at most 4096 pixels wide."""
        on_sheet = self.added in self.on_sheet
        with labels_on_disk(self.folder, image.shape) as labels:
            seams = Seams.for_tiling(prediction.tiling)
            found = find_large_nuclei(image, prediction.strips, self.settings, labels, seams, self.output.pixel_size)
            if found.cut:
                print(f"warning: {path}: nuclei that may be cut at a seam: {found.cut}; raise --overlap")
            row = write_large_nuclei(self.folder, name, image, labels, found.probability)
            if self.output.rois:
                write_rois(self.folder / "rois" / f"{name}_rois.zip", labels)
            runs = rle.encode(labels) if self.output.submission else []
        nuclei, summary = self._tables(name, path, image.shape, found.table, prediction.diameter)
        painted = Future()
        painted.set_result(_Painted(nuclei, summary, row if on_sheet else None, runs))
        self.futures.append(painted)

    def _tables(
        self, name: str, path: Path, shape: tuple[int, int], nuclei: pd.DataFrame, diameter: float | None
    ) -> tuple[pd.DataFrame, dict]:
        """Return the rows of an image for nuclei.csv, and its row for images.csv."""
        about = {"id": name, "path": names.printable_path(path)}
        summary = about | {"width": shape[1], "height": shape[0]}
        summary |= summarize(nuclei, shape, self.output.pixel_size)
        if diameter:
            summary["assumed_diameter"] = round(diameter * (self.output.pixel_size or 1), 2)
            self.diameters.append(diameter)
        for column, value in reversed(about.items()):
            nuclei.insert(0, column, value)
        return nuclei, summary

    def _paint_nuclei(
        self, name: str, path: Path, image: np.ndarray, prediction: Prediction, truth: np.ndarray | None, on_sheet: bool
    ) -> _Painted:
        labels = find_nuclei(prediction.probability, self.settings)
        drawing.write_probabilities(self.folder, name, prediction.probability)
        mask = (labels > 0).astype(np.uint8) * 255
        write_image(self.folder / "0" / f"{name}_mask.png", mask)
        self.pool.check_cancelled()
        write_labels(self.folder / "labels" / f"{name}_labels.tif", labels)
        if self.output.rois:
            write_rois(self.folder / "rois" / f"{name}_rois.zip", labels)
        self.pool.check_cancelled()
        shown = drawing.brighten(image)
        outlined = drawing.outline_labels(shown, labels, truth)
        write_image(self.folder / "overlay" / f"{name}.png", outlined)
        nuclei = measure_nuclei(labels, image, self.output.pixel_size)
        nuclei, summary = self._tables(name, path, labels.shape, nuclei, prediction.diameter)
        strip = None
        if on_sheet:
            highest = cv2.resize(prediction.probability[0], image.shape[1::-1])
            pictures = shown, (highest * 255).astype(np.uint8), mask
            strip = [*map(drawing.fit, pictures), drawing.fit_outlined(shown, labels, truth)]
        return _Painted(nuclei, summary, strip, rle.encode(labels) if self.output.submission else [])

    def finish(self, outlines: str) -> None:
        """Write overview.png, nuclei.csv with a row for each nucleus, images.csv, and the run lengths, if wanted."""
        painted: list[_Painted] = [future.result() for future in self.futures]
        if self.diameters:
            print(describe_diameters(self.diameters))
        strips = [(found.summary["id"], found.strip) for found in painted if found.strip]
        sheet = drawing.contact_sheet(strips, ["image", "probability", "mask", outlines])
        write_image(self.folder / "overview.png", sheet)
        tables = {
            "nuclei.csv": pd.concat([found.nuclei for found in painted]),
            "images.csv": pd.DataFrame([found.summary for found in painted]),
        }
        for name, table in tables.items():
            with atomic_write(self.folder / name) as partial:
                table.to_csv(partial, index=False, float_format="%.6g")
        if self.output.submission:
            rle.write_submission(self.output.submission, ((found.summary["id"], found.runs) for found in painted))
