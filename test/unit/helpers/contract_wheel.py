# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Find what a wheel of torch_npu has, from its sources; what they do not show counts as missing."""

import ast
import functools
import importlib
import inspect
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from helpers.contract_uses import Use, nodes_of

# decorators that do not change a function's arguments
PASS_THROUGH = {"contextmanager", "no_exception_func", "no_grad", "staticmethod", "classmethod", "wraps", "property"}


class Missing(Exception):
    """The wheel has no such thing, or its sources do not show it."""


@dataclass
class Found:
    """What a name stands for. kind: module, function, class, instance, compiled, real or value."""

    kind: str
    module: str = ""
    node: ast.AST | None = None
    object: object = None  # if the kind is real: the object in another, installed package


class Wheel:
    """The sources in a wheel of torch_npu, and their names."""

    def __init__(self, path: Path):
        self.zip = zipfile.ZipFile(path)
        self.files = set(self.zip.namelist())

    def text(self, file: str) -> str:
        """Return the text of a source."""
        return self.zip.read(file).decode("utf-8")

    def file_of(self, module: str) -> str | None:
        """Return the file of a module; None if there is no such module."""
        path = module.replace(".", "/")
        return next((file for file in (f"{path}/__init__.py", f"{path}.py") if file in self.files), None)

    @functools.cache  # noqa: B019  # the wheels live until the end of a test run
    def tree(self, module: str) -> ast.Module:
        """Return the syntax tree of a module."""
        return ast.parse(self.text(self.file_of(module)))

    @functools.cached_property
    def imported(self) -> set[str]:
        """The modules that some source imports; they can be reached as attributes."""
        pattern = re.compile(r"^\s*(?:import|from)\s+(torch_npu[\w.]*|\.+[\w.]*)(?:\s+import\s+([\w, ]+))?", re.M)
        found = set()
        for file in self.files:
            if file.endswith(".py") and self.zip.getinfo(file).file_size < 500_000:
                package = file.rsplit("/", 1)[0].replace("/", ".")
                for module, names in pattern.findall(self.text(file)):
                    whole = _absolute(module, package)
                    parents = whole.split(".")
                    found |= {".".join(parents[:depth]) for depth in range(1, len(parents) + 1)}
                    found |= {f"{whole}.{name.split()[0]}" for name in names.split(",") if name.strip()}
        return found

    def resolve(self, name: str) -> Found:
        """Return what a dotted name stands for; raises Missing."""
        first, *rest = name.split(".")
        found = Found("module", first)
        for part in rest:
            found = self.attribute(found, part)
        return found

    def attribute(self, owner: Found, name: str, special: str = "__getattr__") -> Found:
        """Return what an attribute stands for, if it is read or (special="__setattr__") set; raises Missing."""
        if owner.kind == "module":
            return self._of_module(owner.module, name)
        if owner.kind in ("class", "instance"):
            return self._of_class(owner, name, special)
        if owner.kind == "compiled":
            return self._of_compiled(owner, name)
        if owner.kind == "real" and hasattr(owner.object, name):
            return Found("real", object=getattr(owner.object, name))
        raise Missing(f"cannot tell what {name} is there")

    def _of_module(self, module: str, name: str) -> Found:
        if name == "_C":  # the compiled library of the package, which Python makes an attribute
            return self._module(f"{module}._C")
        package = module if self.file_of(module).endswith("__init__.py") else module.rpartition(".")[0]
        for node in reversed(list(nodes_of(self.tree(module)))):  # the last definition counts
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
                return Found("class" if isinstance(node, ast.ClassDef) else "function", module, node)
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                    return self._value(module, node.value)
            if isinstance(node, ast.ImportFrom):
                source = _absolute("." * node.level + (node.module or ""), package)
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return self._of_any(source, alias.name)
                    if alias.name == "*" and name in self._public(source):
                        return self._of_module(source, name)
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if (alias.asname or alias.name.split(".")[0]) == name:
                        return self._module(alias.name if alias.asname else name)
        if self.file_of(f"{module}.{name}"):
            if f"{module}.{name}" not in self.imported:
                raise Missing(f"{module}.{name} is a module that nothing imports")
            return Found("module", f"{module}.{name}")
        raise Missing(f"{module} has no {name}")

    def _module(self, module: str) -> Found:
        if module.startswith("torch_npu._C"):
            return Found("compiled", module)
        if module.split(".")[0] == "torch_npu":
            return Found("module", module)
        return Found("real", object=importlib.import_module(module))

    def _of_any(self, module: str, name: str) -> Found:
        """Return what `from module import name` gives."""
        if module.split(".")[0] == "torch_npu" and not module.startswith("torch_npu._C") and not self.file_of(module):
            raise Missing(f"there is no module {module}")
        return self.attribute(self._module(module), name)

    def _public(self, module: str) -> set[str]:
        """Return the names that `from module import *` gives."""
        for node in self.tree(module).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return set(ast.literal_eval(node.value))
        defined = {node.name for node in self.tree(module).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        return {name for name in defined if not name.startswith("_")}

    def _value(self, module: str, node: ast.AST | None) -> Found:
        """Return what the right side of an assignment stands for."""
        if isinstance(node, ast.Call):
            called = self._value(module, node.func)
            if called.kind == "class":
                return Found("instance", called.module, called.node)
        elif isinstance(node, ast.Name):
            return self._of_module(module, node.id)
        elif isinstance(node, ast.Attribute):
            return self.attribute(self._value(module, node.value), node.attr)
        return Found("value")

    def bases(self, found: Found) -> Iterator[Found]:
        """Yield a class and all its base classes."""
        yield found
        for base in found.node.bases:
            inherited = self._value(found.module, base)
            if inherited.kind == "class":
                yield from self.bases(inherited)
            else:
                yield inherited

    def _of_class(self, owner: Found, name: str, special: str) -> Found:
        for found in self.bases(owner):
            if found.kind == "real" and hasattr(found.object, name):
                return Found("real", object=getattr(found.object, name))
            if found.kind != "class" and found.kind != "instance":
                continue
            for node in found.node.body:
                if isinstance(node, ast.FunctionDef) and node.name == name:
                    return Found("function", found.module, node)
                if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
                    return Found("value")
                # attributes that exist only as names that __getattr__ and __setattr__ compare with
                if owner.kind == "instance" and isinstance(node, ast.FunctionDef):
                    compared = [test for test in ast.walk(node) if isinstance(test, ast.Compare)]
                    known = {c.value for test in compared for c in test.comparators if isinstance(c, ast.Constant)}
                    if node.name == special and name in known:
                        return Found("value")
        raise Missing(f"{owner.node.name} has no {name}")

    def _of_compiled(self, owner: Found, name: str) -> Found:
        """A name in a compiled library: its strings contain the name, and a source of the wheel uses it."""
        whole = f"{owner.module}.{name}"
        pattern = rf"\b{owner.module.rpartition('.')[2]}(?:\.|\s+import\s+(?:\w+,\s*)*){name}\b"
        sources = (f for f in self.files if f.endswith(".py") and self.zip.getinfo(f).file_size < 500_000)
        if not any(re.search(pattern, self.text(file)) for file in sources):
            raise Missing(f"{whole} is compiled, and no source of the wheel uses it")
        if self.libraries_without([rf"\x00{name}\x00"]):
            raise Missing(f"{whole}: no library has its name")
        return Found("compiled", whole)

    def libraries_without(self, patterns: list[str], also_sources: bool = False) -> list[str]:
        """Return the patterns that none of the wheel's libraries contains."""
        wanted = {pattern: re.compile(pattern.encode()) for pattern in patterns}
        endings = (".so", ".py") if also_sources else (".so",)
        for file in sorted(self.files, key=lambda file: self.zip.getinfo(file).file_size):
            if not file.endswith(endings) or not wanted:
                continue
            with self.zip.open(file) as stream:
                tail = b""
                while chunk := stream.read(1 << 22):
                    data, tail = tail + chunk, chunk[-200:]
                    wanted = {pattern: regex for pattern, regex in wanted.items() if not regex.search(data)}
        return list(wanted)

    def check(self, use: Use) -> None:
        """Raise Missing if the wheel does not have what `use` uses."""
        if use.kind == "assignment":
            owner, _, last = use.name.rpartition(".")
            if self.resolve(owner).kind != "instance":
                raise Missing(f"{last} is assigned to, but {owner} is a {self.resolve(owner).kind}")
            if self.attribute(self.resolve(owner), last, "__setattr__").kind != "value":
                raise Missing(f"{last} cannot be assigned to")
            return
        found = self.resolve(use.name)
        if use.kind == "read" and found.kind in ("module", "instance"):
            raise Missing("is passed on: cannot tell what is done with it")
        if use.kind != "call":
            return
        if found.kind == "real":
            try:
                inspect.signature(found.object).bind(*[None] * use.positional, **dict.fromkeys(use.keywords))
            except TypeError as error:
                raise Missing(str(error)) from error
        elif found.kind in ("function", "class"):
            _check_call(use, *self._signature(found))
        else:
            raise Missing(f"cannot tell how {use.name} is called: it is a {found.kind}")

    def _signature(self, found: Found) -> tuple[ast.arguments, bool]:
        """Return the arguments of a function or of a class's constructor, and whether the first is `self`."""
        if found.kind == "class":
            constructors = [node for node in found.node.body if getattr(node, "name", "") in ("__init__", "__new__")]
            if not constructors:
                inherited = self.attribute(found, "__init__")
                constructors = [inherited.node] if inherited.kind == "function" else []
            if not constructors:
                raise Missing(f"{found.node.name} has no __init__ of its own")
            return constructors[0].args, True
        for decorator in found.node.decorator_list:
            name = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator).split(".")[-1]
            if name not in PASS_THROUGH:
                raise Missing(f"{found.node.name} is decorated by {name}, which this test does not know")
        return found.node.args, False


def _absolute(module: str, package: str) -> str:
    """Return the absolute name of a module that a source in `package` names with leading dots."""
    name = module.lstrip(".")
    ups = len(module) - len(name)
    if not ups:
        return module
    parent = package.split(".")[: len(package.split(".")) - ups + 1]
    return ".".join(parent + ([name] if name else []))


def _check_call(use: Use, arguments: ast.arguments, bound: bool) -> None:
    positional = [argument.arg for argument in arguments.posonlyargs + arguments.args][bound:]
    without_default = positional[: len(positional) - len(arguments.defaults)]
    without_default += [a.arg for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults) if default is None]
    by_keyword = {argument.arg for argument in arguments.args + arguments.kwonlyargs}
    if use.positional > len(positional) and not arguments.vararg:
        raise Missing(f"takes {len(positional)} positional arguments, not {use.positional}")
    for keyword in use.keywords:
        if keyword in ("*", "**"):
            raise Missing(f"{keyword}arguments: cannot tell what is in them")
        if keyword not in by_keyword and not arguments.kwarg:
            raise Missing(f"takes no argument {keyword}")
        if keyword in positional[: use.positional]:
            raise Missing(f"gets {keyword} twice")
    missing = set(without_default) - set(positional[: use.positional]) - set(use.keywords)
    if missing:
        raise Missing(f"needs {', '.join(sorted(missing))} as well")
