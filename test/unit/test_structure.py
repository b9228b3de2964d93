"""Who may import whom, and what one module alone knows or does; read off the sources."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("*.py"))}
SCRIPTS = {"train", "val", "demo", "pthtar2onnx", "preprocess_dsb2018"}
ALLOWED = {
    "archs": {"names"},
    "losses": set(),
    "metrics": set(),
    "errors": {"names"},
    "names": set(),
    "memory": set(),
    "workers": {"memory"},
    "background": set(),
    "synthetic": {"workers"},
    "download": {"errors"},
    "files": {"errors", "names"},
    "ranks": {"errors"},
    "runtime": {"errors", "memory", "ranks"},
    "startup": {"errors"},
    "checks": {"errors", "files"},
    "rawset": {"errors", "files", "names"},
    "augment": set(),
    "cache": set(),
    "dataset": {"augment", "cache", "checks", "errors", "files"},
    "stopping": set(),
    "locks": {"errors"},
    "utils": {"errors", "files", "names"},
    "checkpoints": {"errors", "files"},
    "pictures": {"files"},
    "options": {"names", "runtime"},
    "amp": {"runtime"},
    "averaging": set(),
    "compiling": {"errors", "runtime"},
    "onnx_net": {"archs", "errors", "files"},
    "engine": {"amp", "archs", "checkpoints", "errors", "losses", "metrics", "runtime", "stopping", "utils"},
    "resuming": {"amp", "archs", "averaging", "checkpoints", "engine", "errors", "files", "runtime", "utils"},
}
KNOW_DEVICES = {"runtime"}
LEAVES = {
    "archs",
    "background",
    "checkpoints",
    "losses",
    "metrics",
    "augment",
    "cache",
    "checks",
    "dataset",
    "files",
    "names",
    "utils",
    "runtime",
    "ranks",
    "startup",
}

every_module = pytest.mark.parametrize("module", SOURCES)


def imported(tree: ast.Module, inside_functions: bool = True) -> set[str]:
    """Every module that it imports, dotted."""
    names = set()
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def device_words(tree: ast.Module) -> list[str]:
    """Strings that are the name of a device or of its collective library, and reaches into torch's device modules."""
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


def test_all_modules_are_there() -> None:
    assert set(SOURCES) >= SCRIPTS | LEAVES | {"options", "engine", "errors"}
    assert set(SOURCES) <= SCRIPTS | set(ALLOWED), "a new module: say in ALLOWED what it may import"


@every_module
def test_imports(module: str) -> None:
    allowed = set(SOURCES) - SCRIPTS if module in SCRIPTS else ALLOWED[module]
    assert imported(SOURCES[module]) & set(SOURCES) <= allowed


@pytest.mark.parametrize("module", ["options", "preprocess_dsb2018"])
def test_no_torch(module: str) -> None:
    """Neither by itself nor through what it imports: flags are parsed before torch, and preparing needs none."""
    reached, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= imported(SOURCES[name], inside_functions=False) & set(SOURCES) - reached
        assert "torch" not in {x.split(".")[0] for x in imported(SOURCES[name], inside_functions=False)}, name
    assert len(reached) > 1


@pytest.mark.parametrize("module", sorted(set(SOURCES) - KNOW_DEVICES))
def test_only_runtime_knows_the_kinds_of_device(module: str) -> None:
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


@pytest.mark.parametrize("module", sorted(LEAVES))
def test_leaves_take_plain_arguments(module: str) -> None:
    arguments = {
        argument.arg
        for node in ast.walk(SOURCES[module])
        if isinstance(node, (ast.FunctionDef, ast.Lambda))
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    }
    assert "args" not in arguments and "Namespace" not in ast.dump(SOURCES[module])


def test_albumentations_is_imported_behind_its_switch():
    """By the one module that sets NO_ALBUMENTATIONS_UPDATE before: else it asks the network for a newer version."""
    importing = {name for name, tree in SOURCES.items() if "albumentations" in imported(tree)}
    assert importing == {"augment"}
    lines = [ast.unparse(node) for node in SOURCES["augment"].body]
    assert lines.index("os.environ['NO_ALBUMENTATIONS_UPDATE'] = '1'") < lines.index("import albumentations as A")


@every_module
def test_no_local_name_hides_a_module(module: str) -> None:
    """`files = [...]` in a function makes `files.write_image` there mean the list, from its first line on."""
    modules = {
        alias.asname or alias.name.split(".")[0]
        for node in SOURCES[module].body
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    bound = [
        (node.id, node.lineno)
        for node in ast.walk(SOURCES[module])
        if isinstance(getattr(node, "ctx", 0), ast.Store) and isinstance(node, ast.Name)
    ]
    bound += [(node.arg, node.lineno) for node in ast.walk(SOURCES[module]) if isinstance(node, ast.arg)]
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
