"""The kinds of device that `--device` names. No torch in here: the parser needs them before torch is imported."""

DEVICES = ("auto", "npu", "gpu", "cuda", "cpu")
