# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
#
# An image with this repository and its packages, by default for CPUs. docs/devices.md#docker has the commands, also for
# Ascend NPUs and CUDA GPUs. docker_start.sh starts a container.
ARG BASE=python:3.11-slim
FROM ${BASE}

# requirements-npu.txt adds torch_npu, for a BASE that has CANN but no torch_npu.
ARG REQUIREMENTS=requirements.txt
# The index of torch's CPU build, from the command on PyTorch's page "Previous Versions". Empty: pip's usual build.
ARG TORCH_INDEX=
# More arguments for pip, such as those that choose a mirror.
ARG PIP_ARGS=

# PYTHONUNBUFFERED: `docker logs` shows each line at once. PIP_BREAK_SYSTEM_PACKAGES: pip may install into the system's
# Python, which some distributions forbid outside of containers.
ENV PYTHONUNBUFFERED=1 \
    PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

# The libraries of the host's Ascend driver, which docker_start.sh mounts; without a driver, the folders do not exist.
ENV LD_LIBRARY_PATH=/usr/local/Ascend/driver/lib64:/usr/local/Ascend/driver/lib64/common:/usr/local/Ascend/driver/lib64/driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

USER 0

# The packages come before the code, so that a change of the code does not install them again.
WORKDIR /tmp/requirements
COPY requirements.txt requirements-npu.txt ./
# torch and torch_npu stay as they are if BASE has them, because they must match its CANN or CUDA.
# hadolint ignore=DL3013,SC2086
RUN set -eu; \
    for package in torch torch_npu; do \
        if python3 -c "import importlib.util, sys; sys.exit(not importlib.util.find_spec('$package'))"; then \
            sed -i "/^$package==/d" requirements.txt requirements-npu.txt; \
        fi; \
    done; \
    torch=$(sed -n '/^torch==/p' requirements.txt); \
    if [ -n "$TORCH_INDEX" ] && [ -n "$torch" ]; then \
        python3 -m pip install $PIP_ARGS --index-url "$TORCH_INDEX" "$torch"; \
    fi; \
    python3 -m pip install $PIP_ARGS -r "$REQUIREMENTS"

# The user of the image. docker_start.sh uses its caller instead. -o: BASE may have a user of this number.
ARG UID=1000
ARG GID=1000
RUN groupadd -o -g "$GID" unet && useradd -o -l -m -u "$UID" -g "$GID" unet

WORKDIR /workspace/unet
COPY . .
# Every user can read the code. The user of the image can write to the folders of runs; docker_start.sh mounts folders of
# the host there.
RUN chmod -R a+rX . \
    && mkdir -p inputs models outputs test/output \
    && chown "$UID:$GID" . inputs models outputs test/output

USER ${UID}:${GID}
CMD ["bash"]
