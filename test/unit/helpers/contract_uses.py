# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""Find what our sources use of torch_npu: every name, and the arguments of every call, from their syntax trees."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Use:
    """One place that uses torch_npu. kind: import (or a new local name), read, call or assignment."""

    place: str
    name: str
    kind: str = "read"
    positional: int = 0
    keywords: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        arguments = ["…"] * self.positional + [f"{keyword}=" for keyword in self.keywords]
        ending = {"call": f"({', '.join(arguments)})", "assignment": " = …"}.get(self.kind, "")
        return f"{self.place}: {self.name}{ending}"


@dataclass
class Flow:
    """What is known of all sources together: how arguments and modules pass through functions, by the function's name.

    forwarded: the keywords that the function is called with. returned: the dotted names that each part of its return
    value can stand for. unpacked: the functions whose return value is assigned to names.
    """

    forwarded: dict[str, set[str]] = field(default_factory=dict)
    returned: dict[str, list[set[str]]] = field(default_factory=dict)
    unpacked: set[str] = field(default_factory=set)


class Collector(ast.NodeVisitor):
    """Finds the uses in one source, under whatever local names torch and torch_npu have there."""

    def __init__(self, file: str, tree: ast.Module, flow: Flow):
        self.file, self.flow = file, flow
        self.uses: list[Use] = []
        self.returned: dict[str, list[set[str]]] = {}
        self.functions: list[ast.FunctionDef] = []
        self.attributes: dict[str, set[str]] = {}  # names such as self.tool, in the whole file
        for _ in range(2):  # the first pass finds the attributes
            self.uses = []
            self.aliases = self._aliases_of(tree, {})
            self.visit(tree)

    def _aliases_of(self, scope: ast.AST, outer: dict[str, set[str]]) -> dict[str, set[str]]:
        """Return the local names of a scope, and the dotted names that each can stand for."""
        self.aliases = dict(outer)
        if isinstance(scope, ast.FunctionDef):
            arguments = scope.args.posonlyargs + scope.args.args + scope.args.kwonlyargs
            for argument in arguments:
                self.aliases.pop(argument.arg, None)
        found: dict[str, set[str]] = {}
        for node in nodes_of(scope):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    whole = alias.name if alias.asname else alias.name.split(".")[0]
                    found.setdefault(alias.asname or whole, set()).add(whole)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    found.setdefault(alias.asname or alias.name, set()).add(f"{node.module}.{alias.name}")
        self.aliases |= found
        for node in nodes_of(scope):
            if isinstance(node, ast.Assign):
                for target, names in self._assigned(node):
                    known = self.attributes if "." in target else self.aliases
                    known[target] = known.get(target, set()) | names
        return self.aliases

    def _assigned(self, node: ast.Assign) -> Iterator[tuple[str, set[str]]]:
        """Yield the targets of an assignment that get something in torch or torch_npu."""
        for target in node.targets:
            if names := self.dotted(node.value):
                yield ast.unparse(target), names
            elif isinstance(node.value, ast.Call) and isinstance(target, (ast.Tuple, ast.Name)):
                targets = target.elts if isinstance(target, ast.Tuple) else [target]
                returned = self.flow.returned.get(_last_name(node.value.func), [])
                if len(targets) == len(returned):
                    yield from ((ast.unparse(one), names) for one, names in zip(targets, returned) if names)

    def dotted(self, node: ast.AST) -> set[str]:
        """Return the dotted names that an expression can stand for; torch.npu is torch_npu.npu."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id, set())
        if isinstance(node, ast.Attribute) and ast.unparse(node) in self.attributes:
            return self.attributes[ast.unparse(node)]
        if isinstance(node, ast.Attribute):
            return {_canonical(f"{name}.{node.attr}") for name in self.dotted(node.value)}
        if isinstance(node, ast.IfExp):
            return self.dotted(node.body) | self.dotted(node.orelse)
        if isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            first = node.args[0]
            if called.endswith("import_module") and isinstance(first, ast.Constant):
                return {first.value}
            if called.endswith("get_device_module"):
                return {"torch_npu.npu"}
            if called == "getattr":
                if isinstance(node.args[1], ast.Constant):
                    return {_canonical(f"{name}.{node.args[1].value}") for name in self.dotted(first)}
                # an attribute of torch with a computed name is a device's module; one of torch_npu can be anything
                return {"torch_npu.npu" if name == "torch" else f"{name}.?" for name in self.dotted(first)}
        return set()

    def _add(self, node: ast.AST, kind: str = "read", call: ast.Call | None = None) -> None:
        target = node.func if isinstance(node, ast.Call) and call is node else node
        for name in sorted(self.dotted(target)):
            if name.split(".")[0] == "torch_npu":
                use = Use(f"{self.file}:{node.lineno}", name, kind)
                if call:
                    use.positional = len([a for a in call.args if not isinstance(a, ast.Starred)])
                    use.keywords = [keyword.arg for keyword in call.keywords if keyword.arg]
                    if len(call.args) > use.positional:
                        use.keywords.append("*")
                    for keyword in call.keywords:
                        if not keyword.arg:
                            use.keywords += self._forwarded_keywords(keyword.value)
                self.uses.append(use)

    def _forwarded_keywords(self, node: ast.AST) -> list[str]:
        """Return the keywords in `**name` if `name` holds those that the sources pass to this function, else ["**"]."""
        function = self.functions[-1] if self.functions else None
        if function and isinstance(node, ast.Name) and function.args.kwarg and function.args.kwarg.arg == node.id:
            own = {argument.arg for argument in function.args.args + function.args.kwonlyargs}
            return sorted(self.flow.forwarded.get(function.name, {"**"}) - own)
        return ["**"]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """A function is a scope of its own."""
        outer = self.aliases
        self._aliases_of(node, outer)
        self.functions.append(node)
        self.generic_visit(node)
        self.functions.pop()
        self.aliases = outer

    def visit_Return(self, node: ast.Return) -> None:
        """Something in torch_npu that is returned is followed if the callers give it a name."""
        parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        names = [self.dotted(part) if part else set() for part in parts]
        function = self.functions[-1].name
        earlier = self.returned.get(function, [])
        if any(names) and len(earlier) in (0, len(names)):
            self.returned[function] = [new | old for new, old in zip(names, earlier or [set()] * len(names))]
        for part, own in zip(parts, names):
            if own and function in self.flow.unpacked:
                self._add(part, "import")
            elif part:
                self.visit(part)

    def visit_Import(self, node: ast.Import) -> None:
        """An imported module must exist."""
        names = [alias.name for alias in node.names if alias.name.split(".")[0] == "torch_npu"]
        self.uses += [Use(f"{self.file}:{node.lineno}", name, "import") for name in names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        """So must the names that are imported from a module."""
        for alias in node.names:
            name = _canonical(f"{node.module}.{alias.name}")
            if name.split(".")[0] == "torch_npu":
                self.uses.append(Use(f"{self.file}:{node.lineno}", name, "import"))

    def visit_Assign(self, node: ast.Assign) -> None:
        """A local name for something in torch_npu is followed."""
        if self.dotted(node.value):
            self._add(node.value, "import")
        else:
            self.visit(node.value)
        for target in node.targets:
            if not (isinstance(target, ast.Attribute) and ast.unparse(target) in self.attributes):
                self.visit(target)

    def visit_Name(self, node: ast.Name) -> None:
        """A module on its own."""
        if isinstance(node.ctx, ast.Load):
            self._add(node)

    def visit_Call(self, node: ast.Call) -> None:
        """The called name with its arguments, and what the arguments use."""
        if self.dotted(node.func):
            self._add(node, "call", node)
        elif self.dotted(node):
            self._add(node)
        else:
            self.visit(node.func)
        for argument in node.args + node.keywords:
            self.visit(argument)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """The whole chain of names, or what stands before the attribute if that is no chain of names."""
        if self.dotted(node):
            self._add(node, "read" if isinstance(node.ctx, ast.Load) else "assignment")
        else:
            self.visit(node.value)


def nodes_of(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes in a module or function, without those in functions inside it."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, ast.FunctionDef):
            yield from nodes_of(node)


def _canonical(name: str) -> str:
    return re.sub(r"^torch\.npu\b", "torch_npu.npu", name)


def _last_name(function: ast.AST) -> str:
    return ast.unparse(function).split(".")[-1]


def uses_in(sources: dict[str, str]) -> list[Use]:
    """Return all uses in sources, given as file name → text."""
    trees = {file: ast.parse(text) for file, text in sources.items()}
    flow = Flow()
    for node in (node for tree in trees.values() for node in ast.walk(tree)):
        if isinstance(node, ast.Call):
            keywords = {keyword.arg or "**" for keyword in node.keywords}
            flow.forwarded.setdefault(_last_name(node.func), set()).update(keywords)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            flow.unpacked.add(_last_name(node.value.func))
    for file, tree in trees.items():
        flow.returned |= Collector(file, tree, flow).returned
    return [use for file, tree in trees.items() for use in Collector(file, tree, flow).uses]
