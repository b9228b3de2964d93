#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# Convert an export of pthtar2onnx.py --dynamic to one .om file for each batch size. Not run on hardware so far.
set -eu

say() { printf '%s\n' "${*//[[:cntrl:]]/?}"; }
die() {
    say "[Error] $*" >&2
    exit 1
}

onnx=UNet_npu8p.onnx soc_version=Ascend310P3 batch_sizes='1 4 8 16 32 64' input_h=96 input_w=96 aipp='' output=infer_data/om

usage() {
    cat <<EOT
usage: bash infer/atc.sh [flags]
Convert an ONNX file to one .om file for each batch size.

  --onnx=FILE             export of pthtar2onnx.py --dynamic (default: $onnx)
  --soc_version=NAME      chip, as npu-smi info shows it with Ascend before its name (default: $soc_version)
  --batch_sizes=LIST      batch sizes, separated by blanks or commas (default: $batch_sizes)
  --input_h=N             height of the input, a multiple of 16 (default: $input_h)
  --input_w=N             width of the input, a multiple of 16 (default: $input_w)
  --aipp=FILE             file of infer/write_aipp.py; the model then takes uint8 images (default: none)
  --output=DIR            folder for <name>_bs<batch size>.om (default: $output)
  --help                  show this text
EOT
}

for argument in "$@"; do
    name=${argument%%=*} value=${argument#*=}
    name=${name//-/_}
    case $name in
    __help | _h) usage && exit 0 ;;
    __onnx | __soc_version | __batch_sizes | __input_h | __input_w | __aipp | __output)
        [[ $argument == *=?* ]] || die "--${name#__} needs a value, --${name#__}=…"
        printf -v "${name#__}" '%s' "$value"
        ;;
    *) die "Unknown flag: $argument; --help lists the flags." ;;
    esac
done

read -r -a sizes <<<"${batch_sizes//,/ }"
((${#sizes[@]})) || die "--batch_sizes '$batch_sizes' lists none."
for number in "${sizes[@]}" "$input_h" "$input_w"; do
    [[ $number =~ ^[1-9][0-9]{0,3}$ ]] || die "'$number' is not a whole number from 1 to 9999."
done
for side in "$input_h" "$input_w"; do
    ((side % 16 == 0)) || die "The network takes sides that are multiples of 16, not $side."
done
[[ $soc_version =~ ^[A-Za-z0-9_]+$ ]] || die "--soc_version '$soc_version' is not the name of a chip."
[[ -f $onnx ]] || die "--onnx $onnx: no such file; write it with python pthtar2onnx.py --dynamic --output $onnx"
[[ -z $aipp || -f $aipp ]] || die "--aipp $aipp: no such file; write it with python infer/write_aipp.py --output $aipp"
if [[ -z ${ASCEND_TOOLKIT_HOME:-}${ASCEND_HOME_PATH:-}${ASCEND_OPP_PATH:-} ]]; then
    die "CANN's environment is not set: run source <CANN>/set_env.sh, usually in /usr/local/Ascend/ascend-toolkit."
fi
command -v atc >/dev/null || die 'There is no atc on the PATH: install the CANN toolkit and source its set_env.sh.'

mkdir -p -- "$output"
stem=$(basename -- "$onnx" .onnx)
target=
trap '[[ -z $target ]] || rm -f -- "$target.om"' EXIT # no half-written file stays
for size in "${sizes[@]}"; do
    target=$output/${stem}_bs$size
    rm -f -- "$target.om" # of an earlier export
    options=("--model=$onnx" --framework=5 "--output=$target" --input_format=NCHW --output_type=FP32 --log=error
        "--input_shape=actual_input_1:$size,3,$input_h,$input_w" "--soc_version=$soc_version")
    [[ -z $aipp ]] || options+=("--insert_op_conf=$aipp")
    atc "${options[@]}" || die "atc could not convert $onnx for batch size $size; its messages are above." \
        'A file of a single batch size cannot be converted for others: export it with --dynamic.'
    [[ -s $target.om ]] || die "atc reported no error, but did not write $target.om; its messages are above."
    say "$target.om"
    target=
done
