#!/usr/bin/env bash
# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# Starts a container of the image that the Dockerfile makes: on Ascend NPUs, CUDA GPUs or CPUs. Flags: --help
set -u
here=${BASH_SOURCE[0]%docker_start.sh} # $(dirname …) would drop a newline at the end of the folder's name
# shellcheck source-path=SCRIPTDIR source=test/common.sh
source "${here:-./}test/common.sh" || exit 1

host= # prefix of the host's devices and driver; the tests use another folder than /
image=unet-for-pytorch
device=auto
npus=
devices=()
shm_size=8g
inputs=$root/inputs models=$root/models outputs=$root/outputs
workdir=/workspace/unet # WORKDIR of the Dockerfile
command=()

help_text() {
    cat <<EOT
usage: bash docker_start.sh [flags] [-- COMMAND]
Starts a container and runs COMMAND in it (default: bash). It is removed when COMMAND ends; the mounted folders stay.

  --image=NAME        image to start (default: $image)
  --device=KIND       npu, gpu, cpu, or auto: NPUs if the host has some, else the CPU (default: $device)
  --npus=LIST         numbers of the NPUs, e.g. 0,1,2,3 (default: all)
  --data=DIR          folder that becomes inputs/ in the container (default: inputs of the repository)
  --models=DIR        folder that becomes models/ (default: models of the repository)
  --outputs=DIR       folder that becomes outputs/ (default: outputs of the repository)
  --shm_size=SIZE     shared memory, for the data loading processes (default: $shm_size)
  --help              show this text

The launchers' results are written to test/output of the repository.
EOT
}

parse() {
    local name value
    while (($#)); do
        name=${1%%=*} value=${1#*=}
        case ${name//-/_} in
            __) # the command follows
                command=("${@:2}")
                return
                ;;
            __help | _h)
                help_text
                exit 0
                ;;
            __image | __device | __npus | __data | __models | __outputs | __shm_size)
                [[ $1 == *=?* ]] || die "$name needs a value, $name=…"
                name=${name//-/_}
                name=${name#__}
                [[ $name != data ]] || name=inputs
                printf -v "$name" %s "$value"
                ;;
            *) die "Unknown flag: \"$1\". Write flags as --flag=value, and a command after --; see --help." ;;
        esac
        shift
    done
}

# mount_folder FOLDER PATH FLAG: mounts a folder of the host at PATH in the container.
mount_folder() {
    local folder=$1
    [[ $folder == /* ]] || folder=$PWD/$folder
    set_folder folder "$folder" || die "There is no folder \"$1\" that can be opened (from $3)."
    [[ $folder != *:* ]] || die "Docker cannot mount \"$folder\" (from $3): its path contains a colon."
    options+=(--volume "$folder:$2")
}

# Sets devices to those of --npus, or else to all NPUs of the host.
find_npus() {
    local number path
    if [[ -n $npus ]]; then
        [[ $npus =~ ^[0-9]+(,[0-9]+)*$ ]] || die "--npus needs numbers with commas between them, not \"$npus\"."
        for number in ${npus//,/ }; do
            [[ -e $host/dev/davinci$number ]] ||
                die "There is no $host/dev/davinci$number (from --npus): ls /dev/davinci* shows the NPUs."
            devices+=("$host/dev/davinci$number")
        done
        return
    fi
    for path in "$host"/dev/davinci*; do
        [[ ! $path =~ /davinci[0-9]+$ ]] || devices+=("$path")
    done
}

add_npus() {
    local path group groups=' '
    ((${#devices[@]})) || die "There is no $host/dev/davinci0: install the Ascend driver, or choose --device=cpu."
    devices+=("$host"/dev/{davinci_manager,devmm_svm,hisi_hdc})
    for path in "${devices[@]}"; do
        [[ -e $path ]] || die "There is no $path: install the Ascend driver, or choose --device=cpu."
        options+=(--device "$path")
        group=$(stat -c %g -- "$path") # only members of the devices' group may open them
        [[ $groups == *" $group "* ]] || options+=(--group-add "$group")
        groups+="$group "
    done
    [[ -d $host/usr/local/Ascend/driver ]] ||
        die "There is no $host/usr/local/Ascend/driver: install the Ascend driver there, or choose --device=cpu."
    # hccn.conf: the network addresses of the NPUs, for runs on several of them
    for path in /usr/local/Ascend/driver /usr/local/dcmi /usr/local/bin/npu-smi /etc/ascend_install.info /etc/hccn.conf; do
        [[ ! -e $host$path ]] || options+=(--volume "$host$path:$path:ro")
    done
}

parse "$@"
[[ $device =~ ^(auto|npu|gpu|cpu)$ ]] || die "--device needs npu, gpu, cpu or auto, not \"$device\"."
[[ $shm_size =~ ^[1-9][0-9]*[bkmgBKMG]?$ ]] || die "--shm_size needs a size such as 8g, not \"$shm_size\"."
[[ $image =~ ^[A-Za-z0-9] ]] || die "--image needs the name of an image, not \"$image\"."
[[ -z $npus || $device == auto || $device == npu ]] || die "--npus is not for --device=$device: leave one of them out."
command -v docker >/dev/null || die 'There is no docker on the PATH: install Docker.'

# The caller's user writes the files, so that they belong to it. It has no home in the image, and programs need one.
options=(--rm --init --user "$(id -u):$(id -g)" --env HOME=/tmp --shm-size "$shm_size")
[[ ! -t 0 || ! -t 1 ]] || options+=(--interactive --tty)
[[ $device != auto && $device != npu ]] || find_npus
[[ $device != auto || ${#devices[@]} == 0 ]] || device=npu
case $device in
    npu) add_npus ;;
    gpu) options+=(--gpus all) ;;
esac
# Docker would create missing folders as root.
for folder in "$root/inputs" "$models" "$outputs" "$test_dir/output"; do
    mkdir -p -- "$folder" 2>/dev/null || die "Cannot create the folder \"$folder\"."
done
mount_folder "$inputs" "$workdir/inputs" --data
mount_folder "$models" "$workdir/models" --models
mount_folder "$outputs" "$workdir/outputs" --outputs
mount_folder "$test_dir/output" "$workdir/test/output" 'the repository'
# `docker stop` waits until the run has saved a checkpoint. A shell without a command would ignore it for as long.
((${#command[@]} == 0)) || options+=(--stop-timeout 600)
exec docker run "${options[@]}" "$image" "${command[@]}"
