# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""A remedy must be possible: the flags that a message names belong to every command that can show the message."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from helpers.script_flags import PARSERS, script_flags

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("options", "runtime", "imaging", "exporting", "evaluation", "infer")
FILES = [
    *ROOT.glob("*.py"),
    *(path for room in ROOMS for path in (ROOT / room).rglob("*.py")),
]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(path.read_text("utf-8"))
    for path in FILES
}
# flags of other programs, and a word of each message that names them
OTHER_PROGRAMS = {"--shm-size": "container", "--nfc": "convmv", "--notest": "convmv"}
# flags that infer_om.py passes to ais_bench stand alone
OTHER_PROGRAMS |= {flag: flag for flag in ("--output_dirname", "--outfmt", "--batchsize", "--device")}
LOADING = {"train.py", "val.py", "demo.py"}
# Definitions that the search below takes for part of more commands than can show their messages.
ONLY_FOR = {
    ("options.table", "GROUPS"): {"train.py"},  # help texts; the other commands have a few of the flags
    ("imaging.cache", "ImageCache"): {"train.py"},  # printed by train.py alone
    ("imaging.checks", "check_dataset"): {"train.py"},  # names a cause, not a remedy: --skip_bad of the training
    ("runtime.distributed", "find_ranks"): {"train.py"},  # the other commands run in a single process
    ("runtime.distributed", "init_distributed"): {"train.py"},
    ("runtime.device", "_has_npu"): LOADING,  # pthtar2onnx.py always takes the CPU
    ("runtime.device", "choose_device"): LOADING,
    ("runtime.device", "select_device"): LOADING,
    ("runtime.errors", "_loader_sentence"): LOADING,  # errors of a DataLoader
    ("runtime.errors", "SMALL_SHARED_MEMORY"): LOADING,
}

# Module and name: of a function, class, method (Class.method) or constant; "" stands for what runs at the import.
Definition = tuple[str, str]


class Program:
    """The definitions of some modules, and which of them refer to which."""

    def __init__(self, sources: Mapping[str, ast.Module]):
        self.modules = set(sources)
        self.nodes: dict[Definition, list[ast.AST]] = {}
        self.imported: dict[str, dict[str, Definition]] = {}
        for module, tree in sources.items():
            for statement in tree.body:
                for name, node in _defined(statement):
                    self.nodes.setdefault((module, name), []).append(node)
            self.imported[module] = dict(self._imports(tree))

    def _imports(self, tree: ast.Module) -> Iterator[tuple[str, Definition]]:
        """Yield the names that a module imports from the others; a whole module is (module, "")."""
        for node in ast.walk(tree):
            for alias in getattr(node, "names", ()) if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
                whole = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
                if whole in self.modules:
                    yield alias.asname or alias.name, (whole, "")
                elif isinstance(node, ast.ImportFrom) and node.module in self.modules:
                    yield alias.asname or alias.name, (node.module, alias.name)

    def references(self, definition: Definition) -> Iterator[Definition]:
        """Yield the definitions that a definition names; x.name may be the method `name` of any class."""
        module, name = definition
        if not name:
            yield from ((target, "") for target, _ in self.imported[module].values())
        for node in (found for statement in self.nodes.get(definition, ()) for found in ast.walk(statement)):
            if isinstance(node, ast.Name):
                yield self.imported[module].get(node.id, (module, node.id))
            elif isinstance(node, ast.Attribute):
                yield from (method for method in self.nodes if method[1].endswith(f".{node.attr}"))
                target, inner = self.imported[module].get(getattr(node.value, "id", ""), ("", "-"))
                if not inner:
                    # a package may only pass on what its modules define
                    yield self.imported.get(target, {}).get(node.attr, (target, node.attr))

    def reached(self, script: str) -> set[Definition]:
        """Return the definitions that a script may run; of a class that it does not name, it runs no method."""
        done = new = {(script, "")}
        found = set()
        while new:
            found |= {other for definition in new for other in self.references(definition) if other in self.nodes}
            new = {(module, name) for module, name in found if self._class_of(module, name) in done | found} - done
            done = done | new
        return done

    @staticmethod
    def _class_of(module: str, name: str) -> Definition:
        return module, name.partition(".")[0]

    def messages(self, definition: Definition) -> list[str]:
        return [text for node in self.nodes[definition] for text in _texts(node)]


def _defined(statement: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """Yield the names that a statement of a module defines, each with its code; the special methods of a class and its
    other statements are the class's own.
    """
    if isinstance(statement, ast.ClassDef):
        for part in statement.body:
            is_method = isinstance(part, ast.FunctionDef) and not part.name.startswith("__")
            yield f"{statement.name}.{part.name}" if is_method else statement.name, part
        for part in [*statement.bases, *statement.decorator_list]:
            yield statement.name, part
    elif isinstance(statement, ast.FunctionDef):
        yield statement.name, statement
    elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        found = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        yield from ((name, statement) for name in found)
    else:
        yield "", statement


def _texts(node: ast.AST) -> Iterator[str]:
    """Yield the strings below a node, without docstrings; the values in f-strings become {}."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        node = ast.Module([part for part in node.values if not isinstance(part, ast.Constant)], [])
    for child in ast.iter_child_nodes(node):
        yield from _texts(child)


def impossible(text: str, flags: Mapping[str, frozenset[str]], script: str) -> list[str]:
    """Return the flags in a message that its reader cannot pass: to `script`, or to the script that the message names.

    flags: those of each script.
    """
    wrong = []
    for found in re.finditer(r"(?<![\w-])--[A-Za-z][\w-]*", text):
        named = re.findall(r"([\w/]+\.py)\b[^;)]*$", text[: found.start()])
        spelled = f"--{found[0][2:].replace('-', '_')}"
        elsewhere = found[0] in OTHER_PROGRAMS and OTHER_PROGRAMS[found[0]] in text
        if not elsewhere and spelled not in flags[named[-1] if named and named[-1] in flags else script]:
            wrong.append(found[0])
    return wrong


FLAGS = {script: script_flags(script) for script in PARSERS}
PROGRAM = Program(SOURCES)


@pytest.mark.parametrize("script", PARSERS)
def test_messages_name_flags_of_the_command(script: str) -> None:
    reached = PROGRAM.reached(script.removesuffix(".py").replace("/", "."))
    assert len(reached) > 50
    reached = {definition for definition in reached if script in ONLY_FOR.get(definition, {script})}
    wrong = {
        (definition, text): flags
        for definition in sorted(reached)
        for text in PROGRAM.messages(definition)
        if (flags := impossible(text, FLAGS, script))
    }
    assert wrong == {}


def test_the_exceptions_exist() -> None:
    assert [definition for definition in ONLY_FOR if definition not in PROGRAM.nodes] == []


def test_every_flag_in_the_sources_is_one_of_a_command() -> None:
    """Also in code that no command reaches."""
    every = {"any": frozenset().union(*FLAGS.values()), **FLAGS}
    wrong = [
        (module, text) for module, tree in SOURCES.items() for text in _texts(tree) if impossible(text, every, "any")
    ]
    assert wrong == []


def test_the_search_follows_what_a_command_uses() -> None:
    program = Program(
        {
            "val": ast.parse("import a\nfrom b import Two\na.used()\nTwo().f()"),
            "a": ast.parse(
                "TEXT = '--text'\ndef used(): print(f'{x} --used')\ndef unused(): '--unused'\nprint('--top')"
            ),
            "b": ast.parse(
                "import a\nclass Two:\n  '--docstring'\n  def f(self): return a.TEXT\n  def g(self): print('--g')\n"
                "OTHER = '--other'"
            ),
        }
    )
    reached = program.reached("val")
    assert reached >= {("val", ""), ("a", ""), ("a", "used"), ("b", "Two"), ("b", "Two.f"), ("a", "TEXT")}
    texts = {text for definition in reached for text in program.messages(definition)}
    assert texts == {"{} --used", "--top", "--text"}


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("pass --img_ext or --img-ext", []),
        ("lower --lr, or --batch_size", ["--lr"]),
        ("lower --batch_size (train.py: go on with --resume auto)", []),
        ("train.py is slow; pass --resume", ["--resume"]),
        ("the inner split (train.py --inner_split)", []),
        ("demo.py --inner_split", ["--inner_split"]),
        ("the container's --shm-size", []),
        ("pass --shm-size", ["--shm-size"]),
        ("a-b--c and ---", []),
    ],
)
def test_the_search_for_impossible_remedies_finds_them(text: str, wrong: list[str]) -> None:
    assert impossible(text, FLAGS, "val.py") == wrong
