#!/usr/bin/env bash
# The runs behind README's accuracy tables, whole or line by line, from the repository root, with the real data prepared.
# A line goes on where it was cut off, and does nothing where its run is finished. On a CPU that does not multiply
# bfloat16 leave out --amp: the runs then take twice as long, for other third digits.
set -eux

# The published recipe.
python train.py inputs/dsb2018_96 --device cpu --resume auto --name faithful

# Ingredients, judged by the inner split, which leaves the validation images alone: the published recipe in 10 epochs,
# --recipe fast, and this with one thing changed or added each.
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_faithful --inner_split --amp --channels_last --epochs 10
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_fast --inner_split --amp --channels_last --recipe fast
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_colours --inner_split --amp --channels_last --recipe fast --augmentation published
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_warps --inner_split --amp --channels_last --recipe fast --augmentation warps
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_standard --inner_split --amp --channels_last --recipe fast --normalization standard
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_divided --inner_split --amp --channels_last --recipe fast --divide_twice True
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_no_ema --inner_split --amp --channels_last --recipe fast --ema 0
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_annealed --inner_split --amp --channels_last --recipe fast --min_lr 1e-5
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_adamw --inner_split --amp --channels_last --recipe fast --optimizer AdamW --weight_decay 0.05
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_one_cycle --inner_split --amp --channels_last --recipe fast --scheduler OneCycleLR
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_bce_dice --inner_split --amp --channels_last --recipe fast --loss BCEDiceLoss
python train.py inputs/dsb2018_96 --device cpu --resume auto --name inner_batch_8 --inner_split --amp --channels_last --recipe fast --batch_size 8
# batch IoU depends on the batch: this one's is to be told as the others'
python train.py inputs/dsb2018_96 --device cpu --evaluate --resume models/inner_batch_8/checkpoint.pth.tar
python train.py inputs/dsb2018_96 --device cpu --evaluate --resume models/inner_batch_8/model_best.pth.tar

# Candidates, on the validation images: an earlier one, then the choice within 10 epochs, within 60, and NestedUNet.
python train.py inputs/dsb2018_96 --device cpu --resume auto --name annealed_seed5 --amp --channels_last --recipe fast --min_lr 1e-5 --seed 5
python train.py inputs/dsb2018_96 --device cpu --resume auto --name annealed_seed6 --amp --channels_last --recipe fast --min_lr 1e-5 --seed 6
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_seed5 --amp --channels_last --recipe fast --seed 5
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_seed6 --amp --channels_last --recipe fast --seed 6
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_60 --amp --channels_last --recipe fast --epochs 60
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_60_annealed --amp --channels_last --recipe fast --epochs 60 --min_lr 1e-5
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_nested --amp --channels_last --recipe fast --arch NestedUNet
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_nested_ds --amp --channels_last --recipe fast --arch NestedUNet --deep_supervision True
python train.py inputs/dsb2018_96 --device cpu --resume auto --name fast_nested_60 --amp --channels_last --recipe fast --arch NestedUNet --epochs 60

# What they are worth as they are kept, and with test-time augmentation.
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

# README's tables, plot, and account of the errors.
python test/accuracy_table.py inner_faithful inner_fast inner_colours inner_warps inner_standard inner_divided inner_no_ema inner_annealed inner_adamw inner_one_cycle inner_bce_dice inner_batch_8
python test/accuracy_table.py annealed_seed5 annealed_seed6
python test/accuracy_table.py faithful fast_seed5 fast_seed6 fast_60 fast_60_annealed fast_nested fast_nested_ds fast_nested_60 --plot docs/accuracy.png
python test/accuracy_errors.py fast_60
python test/accuracy_errors.py fast_nested_60
