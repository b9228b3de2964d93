"""What a wheel of torch_npu has, read off its sources; what cannot be read off them counts as lacking."""

import ast
import functools
import importlib
import inspect
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from contract_uses import Use, nodes_of

# decorators that leave a function's arguments as they are
PASS_THROUGH = {"contextmanager", "no_exception_func", "no_grad", "staticmethod", "classmethod", "wraps", "property"}


class Lacking(Exception):
    """The wheel has no such thing, or none that can be read off its sources."""


@dataclass
class Found:
    """What a name stands for: `kind` is module, function, class, instance, compiled, real or value."""

    kind: str
    module: str = ""
    node: ast.AST | None = None
    object: object = None  # of kind real: what another package has by that name


class Wheel:
    """The sources in a wheel of torch_npu, and the names in them."""

    def __init__(self, path: Path):
        self.zip = zipfile.ZipFile(path)
        self.files = set(self.zip.namelist())

    def text(self, file: str) -> str:
        """A source's text."""
        return self.zip.read(file).decode("utf-8")

    def file_of(self, module: str) -> str | None:
        """The file that a module's source is in, None where there is no such module."""
        path = module.replace(".", "/")
        return next((file for file in (f"{path}/__init__.py", f"{path}.py") if file in self.files), None)

    @functools.cache  # noqa: B019  # one wheel in a run
    def tree(self, module: str) -> ast.Module:
        """A module's syntax tree."""
        return ast.parse(self.text(self.file_of(module)))

    @functools.cached_property
    def imported(self) -> set[str]:
        """Modules that some source imports, and so can be reached as attributes."""
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
        """What a dotted name stands for; raises Lacking."""
        first, *rest = name.split(".")
        found = Found("module", first)
        for part in rest:
            found = self.attribute(found, part)
        return found

    def attribute(self, owner: Found, name: str, special: str = "__getattr__") -> Found:
        """What an attribute of something found stands for, read or (special="__setattr__") set; raises Lacking."""
        if owner.kind == "module":
            return self._of_module(owner.module, name)
        if owner.kind in ("class", "instance"):
            return self._of_class(owner, name, special)
        if owner.kind == "compiled":
            return self._of_compiled(owner, name)
        if owner.kind == "real" and hasattr(owner.object, name):
            return Found("real", object=getattr(owner.object, name))
        raise Lacking(f"cannot tell what {name} is there")

    def _of_module(self, module: str, name: str) -> Found:
        if name == "_C":  # the package's library, which Python itself binds
            return self._module(f"{module}._C")
        package = module if self.file_of(module).endswith("__init__.py") else module.rpartition(".")[0]
        for node in reversed(list(nodes_of(self.tree(module)))):  # the last binding counts
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
                raise Lacking(f"{module}.{name} is a module that nothing imports")
            return Found("module", f"{module}.{name}")
        raise Lacking(f"{module} has no {name}")

    def _module(self, module: str) -> Found:
        if module.startswith("torch_npu._C"):
            return Found("compiled", module)
        if module.split(".")[0] == "torch_npu":
            return Found("module", module)
        return Found("real", object=importlib.import_module(module))

    def _of_any(self, module: str, name: str) -> Found:
        """`from module import name`."""
        if module.split(".")[0] == "torch_npu" and not module.startswith("torch_npu._C") and not self.file_of(module):
            raise Lacking(f"there is no module {module}")
        return self.attribute(self._module(module), name)

    def _public(self, module: str) -> set[str]:
        """What `from module import *` imports."""
        for node in self.tree(module).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return set(ast.literal_eval(node.value))
        bound = {node.name for node in self.tree(module).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        return {name for name in bound if not name.startswith("_")}

    def _value(self, module: str, node: ast.AST | None) -> Found:
        """What the right side of an assignment stands for."""
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
        """A class and the classes that it inherits from."""
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
                # attributes that exist only in __getattr__ and __setattr__, which compare names
                if owner.kind == "instance" and isinstance(node, ast.FunctionDef):
                    compared = [test for test in ast.walk(node) if isinstance(test, ast.Compare)]
                    known = {c.value for test in compared for c in test.comparators if isinstance(c, ast.Constant)}
                    if node.name == special and name in known:
                        return Found("value")
        raise Lacking(f"{owner.node.name} has no {name}")

    def _of_compiled(self, owner: Found, name: str) -> Found:
        """In a library without sources: its strings have the name, and the wheel's own sources use it so."""
        whole = f"{owner.module}.{name}"
        asked = rf"\b{owner.module.rpartition('.')[2]}(?:\.|\s+import\s+(?:\w+,\s*)*){name}\b"
        sources = (f for f in self.files if f.endswith(".py") and self.zip.getinfo(f).file_size < 500_000)
        if not any(re.search(asked, self.text(file)) for file in sources):
            raise Lacking(f"{whole} is compiled, and no source of the wheel uses it")
        if self.libraries_without([rf"\x00{name}\x00"]):
            raise Lacking(f"{whole}: no library has its name")
        return Found("compiled", whole)

    def libraries_without(self, patterns: list[str], also_sources: bool = False) -> list[str]:
        """Those of the patterns that are in none of the wheel's libraries."""
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
        """Raises Lacking where the wheel has not what `use` uses."""
        if use.kind == "assignment":
            owner, _, last = use.name.rpartition(".")
            if self.resolve(owner).kind != "instance":
                raise Lacking(f"{last} is assigned to, but {owner} is a {self.resolve(owner).kind}")
            if self.attribute(self.resolve(owner), last, "__setattr__").kind != "value":
                raise Lacking(f"{last} cannot be assigned to")
            return
        found = self.resolve(use.name)
        if use.kind == "read" and found.kind in ("module", "instance"):
            raise Lacking("is handed on: cannot tell what is done with it")
        if use.kind != "call":
            return
        if found.kind == "real":
            try:
                inspect.signature(found.object).bind(*[None] * use.positional, **dict.fromkeys(use.keywords))
            except TypeError as error:
                raise Lacking(str(error)) from error
        elif found.kind in ("function", "class"):
            _check_call(use, *self._signature(found))
        else:
            raise Lacking(f"cannot tell how {use.name} is called: it is a {found.kind}")

    def _signature(self, found: Found) -> tuple[ast.arguments, bool]:
        """The arguments of a function or of what makes an object of a class, and whether the first is `self`."""
        if found.kind == "class":
            makers = [node for node in found.node.body if getattr(node, "name", "") in ("__init__", "__new__")]
            if not makers:
                maker = self.attribute(found, "__init__")
                makers = [maker.node] if maker.kind == "function" else []
            if not makers:
                raise Lacking(f"{found.node.name} has no __init__ of its own")
            return makers[0].args, True
        for decorator in found.node.decorator_list:
            name = ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator).split(".")[-1]
            if name not in PASS_THROUGH:
                raise Lacking(f"{found.node.name} is decorated by {name}, of which this test knows nothing")
        return found.node.args, False


def _absolute(module: str, package: str) -> str:
    """The absolute name of a module, given with leading dots by a source in `package`."""
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
        raise Lacking(f"takes {len(positional)} positional arguments, not {use.positional}")
    for keyword in use.keywords:
        if keyword in ("*", "**"):
            raise Lacking(f"{keyword}arguments: cannot tell what is in them")
        if keyword not in by_keyword and not arguments.kwarg:
            raise Lacking(f"takes no argument {keyword}")
        if keyword in positional[: use.positional]:
            raise Lacking(f"gets {keyword} twice")
    lacking = set(without_default) - set(positional[: use.positional]) - set(use.keywords)
    if lacking:
        raise Lacking(f"needs {', '.join(sorted(lacking))} as well")
