#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# The runs behind the accuracy tables of the documentation. Run all of it or single lines, from the repository root,
# with the real data prepared. A line continues an interrupted run, and does nothing if its run has finished. If the
# CPU has no bfloat16 instructions, leave out --amp: the runs then take twice as long, and the third digits differ.
set -eux

# The published recipe.
python train.py inputs/dsb2018_96 --device cpu --resume auto --name faithful

# Ingredients, compared on the inner split, which does not use the validation images: the published recipe in 10 epochs,
# --recipe fast, and --recipe fast with one change each.
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_faithful --inner_split --amp --channels_last --epochs 10
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_fast --inner_split --amp --channels_last --recipe fast
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_colors --inner_split --amp --channels_last --recipe fast --augmentation published
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_warps --inner_split --amp --channels_last --recipe fast --augmentation warps
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_standard --inner_split --amp --channels_last --recipe fast --normalization standard
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_divided --inner_split --amp --channels_last --recipe fast --divide_twice True
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_no_ema --inner_split --amp --channels_last --recipe fast --ema 0
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_annealed --inner_split --amp --channels_last --recipe fast --min_lr 1e-5
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_adamw --inner_split --amp --channels_last --recipe fast --optimizer AdamW --weight_decay 0.05
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_one_cycle --inner_split --amp --channels_last --recipe fast --scheduler OneCycleLR
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_bce_dice --inner_split --amp --channels_last --recipe fast --loss BCEDiceLoss
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_batch_8 --inner_split --amp --channels_last --recipe fast --batch_size 8
# batch IoU depends on the batch size: evaluate this run with the same batch size as the others
python train.py inputs/dsb2018_96 --device cpu --evaluate --resume models/inner_batch_8/checkpoint.pth.tar --batch_size 16
python train.py inputs/dsb2018_96 --device cpu --evaluate --resume models/inner_batch_8/model_best.pth.tar --batch_size 16

# Candidates, on the validation images: an earlier choice, then those for 10 epochs, for 60 epochs, and for NestedUNet.
python train.py inputs/dsb2018_96 --device cpu --resume auto --name annealed_seed5 --amp --channels_last --recipe fast --min_lr 1e-5 --seed 5
python train.py inputs/dsb2018_96 --device cpu --resume auto --name annealed_seed6 --amp --channels_last --recipe fast --min_lr 1e-5 --seed 6
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_seed5 --amp --channels_last --recipe fast --seed 5
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_seed6 --amp --channels_last --recipe fast --seed 6
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_60 --amp --channels_last --recipe fast --epochs 60
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_60_annealed --amp --channels_last --recipe fast --epochs 60 --min_lr 1e-5
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_nested --amp --channels_last --recipe fast --arch NestedUNet
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_nested_ds --amp --channels_last --recipe fast --arch NestedUNet --deep_supervision True
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_nested_60 --amp --channels_last --recipe fast --arch NestedUNet --epochs 60

# Scores of the best checkpoints, without and with test-time augmentation.
python val.py --device cpu --name faithful
python val.py --device cpu --name annealed_seed5
python val.py --device cpu --name annealed_seed6
python val.py --device cpu --name fast_seed5
python val.py --device cpu --name fast_seed6
python val.py --device cpu --name fast_60
python val.py --device cpu --name fast_60_annealed
python val.py --device cpu --name fast_nested
python val.py --device cpu --name fast_nested_ds
python val.py --device cpu --name fast_nested_60
python val.py --device cpu --name faithful --tta --output outputs/tta
python val.py --device cpu --name annealed_seed5 --tta --output outputs/tta
python val.py --device cpu --name annealed_seed6 --tta --output outputs/tta
python val.py --device cpu --name fast_seed5 --tta --output outputs/tta
python val.py --device cpu --name fast_seed6 --tta --output outputs/tta
python val.py --device cpu --name fast_60 --tta --output outputs/tta
python val.py --device cpu --name fast_60_annealed --tta --output outputs/tta
python val.py --device cpu --name fast_nested --tta --output outputs/tta
python val.py --device cpu --name fast_nested_ds --tta --output outputs/tta
python val.py --device cpu --name fast_nested_60 --tta --output outputs/tta

# The tables, the plot, and the analysis of the errors.
python benchmarks/accuracy_table.py inner_faithful inner_fast inner_colors inner_warps inner_standard inner_divided inner_no_ema inner_annealed inner_adamw inner_one_cycle inner_bce_dice inner_batch_8
python benchmarks/accuracy_table.py annealed_seed5 annealed_seed6
python benchmarks/accuracy_table.py faithful fast_seed5 fast_seed6 fast_60 fast_60_annealed fast_nested fast_nested_ds fast_nested_60 --plot docs/accuracy.png
python benchmarks/accuracy_errors.py fast_60
python benchmarks/accuracy_errors.py fast_nested_60
