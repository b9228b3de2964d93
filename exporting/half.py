# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Half precision inside an ONNX file."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# operators that compute in float16 if their first input is float16; Resize keeps its scales in float32
BETWEEN_CONVOLUTIONS = ("Relu", "MaxPool", "Resize", "Concat")


def to_half(model: onnx.ModelProto) -> None:
    """Change a net's convolutions, and what lies between them, to float16; inputs and outputs of the file stay.

    What precedes the first convolution and follows the last one stays float32. Weights above 65504 become infinite.

    onnxruntime's own converter writes files that onnx.checker refuses, and torch needs a minute to trace a net of half
    precision on the CPU.
    """
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    half, casts, nodes = set(), set(), []

    def cast(name: str, kind: int, result: str) -> str:
        if result not in casts:
            casts.add(result)
            nodes.append(helper.make_node("Cast", [name], [result], f"{result}_cast", to=kind))
        return result

    outputs = {output.name for output in graph.output}
    for node in graph.node:
        if node.op_type == "Conv":
            for k, name in enumerate(node.input):
                if name in weights:
                    _halve(weights[name])
                elif name not in half:
                    node.input[k] = cast(name, TensorProto.FLOAT16, f"{name}_half")
        elif node.op_type not in BETWEEN_CONVOLUTIONS or node.input[0] not in half:
            node.input[:] = [
                cast(name, TensorProto.FLOAT, f"{name}_float") if name in half else name for name in node.input
            ]
            nodes.append(node)
            continue
        half.update(node.output)
        nodes.append(node)
        for k, name in enumerate(node.output):
            if name in outputs:  # nothing else uses it
                node.output[k] = f"{name}_half"
                cast(node.output[k], TensorProto.FLOAT, name)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _halve(weights: onnx.TensorProto) -> None:
    values = numpy_helper.to_array(weights)
    with np.errstate(over="ignore"):
        weights.CopyFrom(numpy_helper.from_array(values.astype(np.float16), weights.name))
