#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# The runs behind the table of docs/nuclei.md. Run all of it or single lines, from the repository root, with the real zip
# at inputs/stage1_train.zip. If the CPU has no bfloat16 instructions, leave out --amp: the runs then take twice as long.
# On a GPU, put --device cuda in place of --device cpu --amp.
set -eux

python preprocess_dsb2018.py --input inputs/stage1_train.zip
python preprocess_dsb2018.py --input inputs/stage1_train.zip --img_size 192 --borders --output inputs/dsb2018_192_borders
python preprocess_dsb2018.py --input inputs/stage1_train.zip --img_size 0 --borders

# One output at 96×96; two outputs at 192×192; the recipe for nuclei from random weights; and from those of the second
# model in two stages. Only the last run draws rare kinds of images more often.
python train.py --device cpu --amp --channels_last --resume auto --name one_output --recipe fast
python train.py inputs/dsb2018_192_borders --device cpu --amp --channels_last --resume auto --name two_outputs --recipe fast --epochs 60 --num_classes 2 --input_h 192 --input_w 192 --augmentation warps --loss BorderLoss
python train.py --device cpu --amp --channels_last --resume auto --name nuclei --recipe nuclei --balance false
python train.py --device cpu --amp --channels_last --name nuclei_from_two --recipe nuclei --pretrained --resume models/two_outputs/model_best.pth.tar --crop_diameter 24 --balance false --epochs 14 --lr 1e-3
python train.py --device cpu --amp --channels_last --name nuclei_balanced --recipe nuclei --pretrained --resume models/nuclei_from_two/model_best.pth.tar --crop_diameter 24 --epochs 38 --lr 1e-3

# Connected regions: nothing falls below a neck of 0. All settings that one output uses are given, so that tuned
# ones have no effect.
python val.py --device cpu --name one_output --raw inputs/stage1_train.zip --tta --threshold 0.5 --smoothing 0 --neck 0 --min_area 1 --min_confidence 0 --output outputs/regions

# The settings of the splitter are found on training images alone.
python val.py --device cpu --name one_output --raw inputs/stage1_train.zip --tta --tune --tune_images 60
python val.py --device cpu --name two_outputs --raw inputs/stage1_train.zip --tta --tune --tune_images 60
python val.py --device cpu --name nuclei --raw inputs/stage1_train.zip --tta --tune --tune_images 60
python val.py --device cpu --name nuclei_from_two --raw inputs/stage1_train.zip --tta --tune --tune_images 60
python val.py --device cpu --name nuclei_balanced --raw inputs/stage1_train.zip --tta --tune --tune_images 60 --report
