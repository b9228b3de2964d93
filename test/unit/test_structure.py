# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Who may import whom, what one room alone knows or does, and how large things are; read from the sources."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {"train", "val", "demo", "pthtar2onnx", "preprocess_dsb2018"}
SCIENCE = {"archs", "losses", "metrics"}
ROOT_FILES = COMMANDS | SCIENCE | {"dataset", "engine", "utils"}
ROOMS = ("options", "runtime", "imaging", "exporting", "evaluation", "infer")
PACKAGES = {"runtime", "imaging", "imaging.raw", "exporting", "evaluation", "infer"}  # themselves empty
FILES = [*sorted(ROOT.glob("*.py")), *(path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text("utf-8"))
    for path in FILES
}

INFER_MODULES = {f"infer.{name}" for name in ("acl_model", "batches", "files", "network", "stand_in")}

# what each room may import besides itself; runtime and imaging import no module of the root
ALLOWED = {
    **{module: set() for module in SCIENCE},
    "options": {"options", "runtime.argtypes", "runtime.flags"},
    "dataset": {"imaging", "runtime.batch_sampler", "runtime.byte_batches", "runtime.errors", "runtime.loader_worker"},
    "utils": {"runtime"},
    "engine": {"archs", "losses", "metrics", "utils", "runtime"},
    "runtime": {"runtime"},
    "imaging": {"imaging", "runtime.files", "runtime.errors", "runtime.names"},
    "exporting": {"exporting", "archs", "imaging", "runtime"},
    "evaluation": {"evaluation", "metrics", "imaging", "runtime"},
    # its commands do not import each other
    "infer": ROOT_FILES - COMMANDS | set(ROOMS) - {"infer"} | INFER_MODULES,
    **{command: ROOT_FILES - COMMANDS | set(ROOMS) - {"infer"} for command in COMMANDS},
}
# decides by kind of device: device.py; the choices of --device: options/table.py
KNOW_DEVICES = {"runtime.device", "options.table"}

MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 300, 60, 7

every_module = pytest.mark.parametrize("module", SOURCES)


def imported(tree: ast.Module, inside_functions: bool = True) -> set[str]:
    """Every module that a module imports, with dots."""
    names = set()
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(module: str, inside_functions: bool = True) -> set[str]:
    """The modules of the project that a module imports."""
    return imported(SOURCES[module], inside_functions) & SOURCES.keys() - PACKAGES


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def device_words(tree: ast.Module) -> list[str]:
    """Strings that name a device or its library of collectives, and uses of torch's modules for devices."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"(npu|cuda|gloo)(:\d*)?", node.value) or re.search("hccl|nccl", node.value):
                found.append(f"line {node.lineno}: {node.value!r}")
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "torch" and node.attr in ("npu", "cuda"):
                found.append(f"line {node.lineno}: torch.{node.attr}")
            elif node.value.id == "torch_npu":
                found.append(f"line {node.lineno}: torch_npu")
    return found + [name for name in imported(tree) if re.match(r"torch\.(npu|cuda)\b|torch_npu\b", name)]


def test_the_root_holds_the_names_that_users_know() -> None:
    assert {path.stem for path in ROOT.glob("*.py")} == ROOT_FILES


@every_module
def test_imports(module: str) -> None:
    allowed = ALLOWED.get(module) or ALLOWED.get(module.split(".")[0], set())
    rooms = tuple(f"{name}." for name in allowed)
    assert {name for name in own_imports(module) if name not in allowed and not name.startswith(rooms)} == set()


def test_no_import_cycles() -> None:
    """Neither at the top of a module nor inside its functions."""
    waiting = {module: own_imports(module) - {module} for module in SOURCES}
    while waiting:
        free = [module for module, needed in waiting.items() if not needed & waiting.keys()]
        assert free, f"a cycle among {sorted(waiting)}"
        for module in free:
            del waiting[module]


def test_the_recipe_imports_few_modules() -> None:
    assert len(own_imports("train")) <= 10


@pytest.mark.parametrize("module", ["options", "runtime.startup", "preprocess_dsb2018", "demo", "runtime.onnx_model"])
def test_no_torch(module: str) -> None:
    """Neither by itself nor through what it imports: flags are parsed before torch, and some commands need none."""
    reached, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= own_imports(name, inside_functions=False) - reached
        assert "torch" not in {x.split(".")[0] for x in imported(SOURCES[name], inside_functions=False)}, name
    assert len(reached) > 1


@pytest.mark.parametrize("module", sorted(SOURCES.keys() - KNOW_DEVICES))
def test_only_device_knows_the_kinds_of_device(module: str) -> None:
    assert device_words(SOURCES[module]) == []


@pytest.mark.parametrize(
    "source, count",
    [
        ("x = 'npu'", 1),
        ("torch.device('cuda:0')", 1),
        ("backend = {'a': 'gloo'}", 1),
        ("re.search('gloo/|hccl', text)", 1),
        ("torch.cuda.synchronize()", 1),
        ("torch.npu.set_device(0)", 1),
        ("from torch import cuda", 1),
        ("import torch.cuda", 1),
        ("import torch_npu", 1),
        ("print(f'[npu id: {device_id} ]')", 0),
        ("'''npu and cuda'''", 0),
        ("torch.device(name)", 0),
    ],
)
def test_the_search_for_devices_finds_them(source: str, count: int) -> None:
    assert len(device_words(ast.parse(source))) == count


@pytest.mark.parametrize("module", sorted(name for name in SOURCES if name.startswith("imaging") or name in SCIENCE))
def test_imaging_and_science_take_plain_arguments(module: str) -> None:
    """No namespace of flags reaches them."""
    arguments = {
        argument.arg
        for node in ast.walk(SOURCES[module])
        if isinstance(node, (ast.FunctionDef, ast.Lambda))
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    }
    assert "args" not in arguments and "Namespace" not in ast.dump(SOURCES[module])


def test_albumentations_is_imported_by_one_module() -> None:
    """That module sets NO_ALBUMENTATIONS_UPDATE first: otherwise the import asks the network for a newer version."""
    importing = {name for name, tree in SOURCES.items() if "albumentations" in imported(tree)}
    assert importing == {"imaging.augment"}
    lines = [ast.unparse(node) for node in SOURCES["imaging.augment"].body]
    assert lines.index("os.environ['NO_ALBUMENTATIONS_UPDATE'] = '1'") < lines.index("import albumentations as A")


@every_module
def test_no_local_name_hides_a_module(module: str) -> None:
    """`names = […]` in a function makes `names.printable` there mean the list, from its first line on."""
    tree = SOURCES[module]
    modules = {
        alias.asname or alias.name.split(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    modules |= {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if f"{node.module}.{alias.name}" in SOURCES
    }
    bound = [
        (node.id, node.lineno)
        for node in ast.walk(tree)
        if isinstance(getattr(node, "ctx", 0), ast.Store) and isinstance(node, ast.Name)
    ]
    bound += [(node.arg, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.arg)]
    assert [f"line {line}: {name}" for name, line in bound if name in modules] == []


@every_module
def test_docstrings(module: str) -> None:
    tree = SOURCES[module]
    public = [
        node
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    assert ast.get_docstring(tree), "the module has none"
    assert [node.name for node in public if not ast.get_docstring(node)] == []


@every_module
def test_sizes(module: str) -> None:
    """Files, functions (parsers of flags apart) and parameter lists that a reader can hold in mind."""
    tree = SOURCES[module]
    assert max((node.end_lineno for node in tree.body), default=0) <= MAX_FILE_LINES
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in functions(tree)
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES and not node.name.startswith("parse_")
    ]
    wide = []
    for node in functions(tree):
        names = [argument.arg for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
        if len([name for name in names if name not in ("self", "cls")]) > MAX_PARAMETERS:
            wide.append(f"{node.name}: {len(names)} parameters")
    assert long + wide == []


def british(text: str) -> list[str]:
    """Words in British spelling."""
    stems = r"normalis|optimis|colour|neighbour|behaviour|initialis|recognis|organis|summaris|synthesis(?=e)|catalogue"
    return re.findall(rf"\b\w*(?:{stems}|\bgrey|\bcentre|licence)\w*", text, re.IGNORECASE)


def test_american_spelling() -> None:
    suffixes = {".py", ".sh", ".md", ".toml", ".txt", ".yaml"}
    found = []
    for path in sorted(ROOT.rglob("*")):
        relative = path.relative_to(ROOT)
        skipped = {
            ".git",
            ".venv",
            ".venv-newest",
            "venv",
            "inputs",
            "models",
            "outputs",
            "output",
            "standin_npu",
        } & set(relative.parts)
        if path.suffix in suffixes and not skipped and relative != Path("test/unit/test_structure.py"):
            found += [f"{relative}: {word}" for word in british(path.read_text("utf-8"))]
    assert found == []


def test_the_search_for_british_spelling_finds_it() -> None:
    assert british("Normalised colours of neighbouring grey centres") == [
        *("Normalised", "colours", "neighbouring", "grey", "centres")
    ]
    assert british("normalized colors of neighboring gray centers; a synthesis") == []
