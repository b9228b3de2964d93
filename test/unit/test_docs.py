# Copyright 2026 The UNet for PyTorch Authors
# Licensed under the Apache License, Version 2.0. SPDX-License-Identifier: Apache-2.0
"""The pages for users: links lead somewhere, and commands name scripts and flags that exist."""

import contextlib
import functools
import io
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, run
from helpers.script_flags import PARSERS, script_flags
from torch.distributed.run import get_args_parser as torchrun_parser

import options

READMES = ("README.md", "README.zh.md")
MAX_README_LINES = {"README.md": 244, "README.zh.md": 275}  # the Chinese one has the sections of Ascend's ModelZoo
ROOT_PAGES = (*READMES, "CONTRIBUTING.md", "CHANGELOG.md", "public_address_statement.md")
PAGES = [ROOT / name for name in ROOT_PAGES] + sorted((ROOT / "docs").glob("*.md"))
TOOLS = ("benchmarks/run.py", "benchmarks/accuracy_table.py", "test/faults/run.py")
# flags of other editions or versions, and the pages that may mention them
FORMER_FLAGS = {"--compile", "--performance"}
PAGES_ON_FORMER_FLAGS = ("CHANGELOG.md", "migration.md")
NOT_PASSED_ON = ("--num_gpus", "--rank_id", "--evaluate")  # flags of train.py that launchers set themselves

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SEPARATORS = ("&&", "||", "|", ";")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def without_blocks(text: str) -> str:
    """Return a page without its code blocks."""
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        found.add(next(name for number in range(100) if (name := f"{slug}-{number}" if number else slug) not in found))
    return found


def broken_links(page: Path, text: str) -> list[str]:
    """Return the relative links of a page whose file or anchor does not exist."""
    broken = []
    for link in LINK.findall(INLINE_CODE.sub("", without_blocks(text))):
        if re.match(r"[a-z]+:", link):  # https: and the like
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve()
        if not name:
            content = text
        elif name.startswith("/") or not target.is_relative_to(ROOT) or not target.exists():
            content = None
        else:
            content = target.read_text(encoding="utf-8") if anchor else ""
        if content is None or (anchor and anchor not in anchors(content)):
            broken.append(link)
    return broken


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of the commands in a page: in blocks of bash, and in inline code that starts with a program."""
    for language, block in FENCE.findall(text):
        if language != "bash":
            continue
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["cd"]:
                break  # what follows runs in another folder
            yield from split_at(SEPARATORS, words)
    for code in INLINE_CODE.findall(without_blocks(text)):
        if re.match("(python|bash|torchrun) ", code):
            yield shlex.split(code)


def split_at(separators: tuple[str, ...], words: list[str]) -> Iterator[list[str]]:
    """Yield the parts of a list between the separators."""
    part = []
    for word in [*words, separators[0]]:
        if word not in separators:
            part.append(word)
        elif part:
            yield part
            part = []


def command_problems(words: list[str]) -> list[str]:
    """Return what is wrong with a command of this repository; other programs are not checked."""
    program, *words = words
    if program == "torchrun":
        return torchrun_problems(words)
    if program not in ("python", "bash") or words[:1] in (["-m"], ["-c"]):
        return []
    script, *words = words
    if not (ROOT / script).is_file():
        return [f"there is no {script}"]
    if program == "bash":
        return launcher_problems(script, words)
    problems = [f"{script} has no {flag}" for flag in flags_in(words) if as_spelled(flag) not in known_flags(script)]
    return problems or value_problems(script, words)


def torchrun_problems(words: list[str]) -> list[str]:
    """Check torchrun's own flags, which stand before the script, and then the script and its flags."""
    at = next((index for index, word in enumerate(words) if word.endswith(".py")), None)
    if at is None:
        return [] if not words else ["torchrun without a script"]
    known = torchrun_parser()._option_string_actions
    problems = [f"torchrun has no {flag}" for flag in flags_in(words[:at]) if flag not in known]
    return problems + command_problems(["python", *words[at:]])


def launcher_problems(script: str, words: list[str]) -> list[str]:
    """Check a launcher's own flags, and with train.py's parser those that it passes on."""
    if script == "test/run_tests.sh":  # its arguments are pytest's
        return []
    own, passed_on = shell_flags(script), Path(script).name.startswith("train_")
    problems, others = [], []
    if script == "docker_start.sh" and "--" in words:  # a command for the container follows
        words, command = words[: words.index("--")], words[words.index("--") + 1 :]
        problems = command_problems(command) if command else ["-- without a command"]
    for word in words:
        flag, equals, _ = word.partition("=")
        if not word.startswith("--"):
            problems.append(f"{script} takes no {word}; its flags are written --flag=value")
        elif as_spelled(flag) in own:
            if own[as_spelled(flag)] and not equals:
                problems.append(f"{script}: {flag} needs a value, {flag}=…")
        elif not passed_on or as_spelled(flag) in NOT_PASSED_ON or as_spelled(flag) not in known_flags("train.py"):
            problems.append(f"{script} has no {flag}")
        else:
            others.append(word)
    return problems or value_problems("train.py", others)


def value_problems(script: str, words: list[str]) -> list[str]:
    """Return why the script's parser refuses a command line; [] if a part of it is a placeholder such as NAME or …"""
    if script not in PARSERS or any(re.search(r"…|<|\b[A-Z]+$", word) for word in words):
        return []
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message), contextlib.redirect_stdout(io.StringIO()):
            PARSERS[script](words)
    except SystemExit as error:
        if error.code:  # 0 after --help
            return [message.getvalue().strip().splitlines()[-1]]
    return []


def flags_in(words: list[str]) -> list[str]:
    """Return the flags among the words of a command, without their values."""
    return [word.partition("=")[0] for word in words if re.match("--?[A-Za-z]", word)]


def as_spelled(flag: str) -> str:
    """Return a flag with underscores, as the parsers have it; users may also write hyphens."""
    return f"--{flag[2:].replace('-', '_')}" if flag.startswith("--") else flag


@functools.cache
def known_flags(script: str) -> frozenset[str]:
    """Return the flags of a Python script: those of its parser, or those in its help."""
    if script not in PARSERS:
        result = run(script, "--help", cwd=ROOT)
        assert not result.returncode, result.stdout
        return frozenset(map(as_spelled, flags_of_help(result.stdout)))
    return script_flags(script)


@functools.cache
def shell_flags(script: str) -> dict[str, bool]:
    """Return a shell script's own flags by its help, and whether each takes a value; {} if it has no help."""
    if "--help" not in (ROOT / script).read_text(encoding="utf-8") and not Path(script).name.startswith("train_"):
        return {}
    command = ("bash", script, "--help")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert not result.returncode, f"{' '.join(command)}: {result.stderr}"
    return flags_of_help(result.stdout)


def flags_of_help(text: str) -> dict[str, bool]:
    """Return the flags that a help text lists, and whether `=` follows them."""
    lines = re.findall("^  (-.+?)(?:  |$)", text, re.MULTILINE)
    return {
        flag: bool(equals) for line in lines for flag, equals in re.findall(r"(?<![\w-])(--?[A-Za-z][\w-]*)(=?)", line)
    }


@functools.cache
def main_flags() -> frozenset[str]:
    """Return the flags of the commands, the launchers, quickstart.sh and torchrun."""
    launchers = [
        "quickstart.sh",
        "docker_start.sh",
        "infer/atc.sh",
        *(str(path.relative_to(ROOT)) for path in (ROOT / "test").glob("train_*.sh")),
    ]
    found = set().union(*map(known_flags, PARSERS), *map(shell_flags, launchers))
    return frozenset(found | {as_spelled(flag) for flag in torchrun_parser()._option_string_actions})


def unknown_flags(page: Path, text: str) -> list[str]:
    """Return the flags in inline code such as `--epochs 10` that no command has."""
    codes = [code for code in INLINE_CODE.findall(without_blocks(text)) if code.startswith("--")]
    former = FORMER_FLAGS if page.name in PAGES_ON_FORMER_FLAGS else set()
    flags = [flag for code in codes for flag in flags_in(code.split()) if flag not in former]
    flags = [flag for flag in flags if as_spelled(flag) not in main_flags()]
    for script in TOOLS:  # only if needed, since their help imports torch
        flags = [flag for flag in flags if as_spelled(flag) not in known_flags(script)] if flags else []
    return flags


@every_page
def test_links(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


@every_page
def test_commands(page: Path) -> None:
    found = list(commands(page.read_text(encoding="utf-8")))
    assert [(" ".join(words), problems) for words in found if (problems := command_problems(words))] == []


@every_page
def test_flags_in_the_text(page: Path) -> None:
    assert unknown_flags(page, page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", READMES)
def test_readmes_are_short_and_name_every_page(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_README_LINES[name]
    assert [page.name for page in PAGES if page.name not in READMES and f"{page.relative_to(ROOT)})" not in text] == []


def test_both_readmes_have_the_same_commands() -> None:
    """The Chinese one has them in another order, that of Ascend's ModelZoo."""
    english, chinese = (sorted(commands((ROOT / name).read_text(encoding="utf-8"))) for name in READMES)
    assert english == chinese and len(english) > 15


def test_the_chinese_readme_has_the_sections_of_the_model_zoo() -> None:
    text = without_blocks((ROOT / "README.zh.md").read_text(encoding="utf-8"))
    sections = ["概述", "准备训练环境", "准备数据集", "开始训练", "训练结果展示", "版本说明", "公网地址说明"]
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == sections
    assert re.findall(r"^- \[(.+)\]\(#\1\)$", text, re.MULTILINE) == sections
    assert {"变更", "FAQ"} <= set(re.findall(r"^### (.+)$", text.split("## 版本说明")[1], re.MULTILINE))


def test_both_readmes_have_the_same_results() -> None:
    """Every figure of the tables of one README stands in those of the other."""
    figures = []
    for name, heading in zip(READMES, ("## Results", "## 训练结果展示")):
        section = (ROOT / name).read_text(encoding="utf-8").split(heading)[1].split("\n## ")[0]
        rows = re.findall(r"^\|.+", section, re.MULTILINE)
        figures.append(set(re.findall(r"\d+\.\d+|\d{3,}", "\n".join(rows))))
    english, chinese = figures
    assert english <= chinese and len(english) > 20
    section = (ROOT / "README.zh.md").read_text(encoding="utf-8").split("## 训练结果展示")[1]
    sources = re.findall(r"\| ([^|]+) \|$", section, re.MULTILINE)
    published = [source for source in sources if source.startswith("已发布") and source.endswith("，非本仓测得")]
    assert len(published) >= 9 and sources.count("本仓实测") >= 8


def test_training_page_has_all_flags_of_train() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert [name for name in options.FLAGS if f"`--{name}`" not in text] == []


def test_ascend_page_has_the_variables_of_env_npu() -> None:
    script = (ROOT / "test" / "env_npu.sh").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "ascend.md").read_text(encoding="utf-8")
    exported = re.findall(r'^export (\w+)="\$\{\1-(.+)\}"$', script, re.MULTILINE)
    table = page.split("| variable | value | meaning |\n")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \| (\S+) \|", table, re.MULTILINE) == exported and len(exported) > 5


def test_contributing_names_every_module() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = ["", "runtime", "imaging", "imaging/raw", "exporting", "evaluation", "infer", "benchmarks", "test/faults"]
    modules = [path for folder in folders for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]
    named = [path.name if path.parent.name != "raw" else f"raw/{path.name}" for path in modules]
    assert len(named) > 50 and [name for name in named if f"`{name}`" not in text] == []


def test_contributing_names_what_is_in_the_sources() -> None:
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    found = re.findall(r"`(\w+)` in `([\w/]+\.py)`", text)
    missing = [pair for pair in found if not re.search(rf"\b{pair[0]}\b", (ROOT / pair[1]).read_text(encoding="utf-8"))]
    assert len(found) > 10 and missing == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ("[a](README.md)", []),
        ("[a](docs/data.md#dsb2018) [b](https://example.org/none)", []),
        ("![a](docs/overview.png)", []),
        ("# One `--two`, three\n[a](#one---two-three)", []),
        ("# Same\n# Same\n[a](#same-1)", []),
        ("# 安装 与训练\n[a](#安装-与训练)", []),
        ("`[a](none.md)`\n```text\n[b](none.md)\n```\n", []),
        ("[a](docs/none.md)", ["docs/none.md"]),
        ("![a](docs/none.png)", ["docs/none.png"]),
        ("[a](docs/data.md#none)", ["docs/data.md#none"]),
        ("# One\n[a](#two)", ["#two"]),
        ("```bash\n# a comment\n```\n[a](#a-comment)", ["#a-comment"]),
        ("[a](/README.md)", ["/README.md"]),
        ("[a](../outside.md)", ["../outside.md"]),
    ],
)
def test_the_check_finds_broken_links(text: str, expected: list[str]) -> None:
    assert broken_links(ROOT / "page.md", text) == expected


@pytest.mark.parametrize(
    "text, problem",
    [
        ("```bash\npython train.py inputs/x --batch-size 8 -e --resume a.pth.tar  # --none\n```\n", None),
        ("```bash\nsource a && python val.py --name NAME --tta\n```\n", None),
        ("```bash\npython train.py \\\n    --epochs 3\n```\n", None),
        ("```bash\nbash test/train_full_8p.sh --data_path=x --num_gpus=4 --save_steps=3 --skip_bad\n```\n", None),
        ("```bash\ntorchrun --standalone --nproc_per_node=2 train.py --epochs 3\n```\n", None),
        ("```bash\ncd elsewhere\npython none.py\n```\n", None),
        ("```text\npython none.py\n```\n", None),
        ("`python train.py --name RUN --epochs N …`", None),
        ("`python benchmarks/accuracy_table.py NAME… --plot FILE`", None),
        ("```bash\nbash docker_start.sh --npus=0 -- bash test/train_full_1p.sh --seed=3\n```\n", None),
        ("```bash\npython none.py\n```\n", "there is no none.py"),
        ("```bash\nbash docker_start.sh --none\n```\n", "docker_start.sh has no --none"),
        ("```bash\nbash docker_start.sh bash\n```\n", "docker_start.sh takes no bash"),
        ("```bash\nbash docker_start.sh -- python train.py --none\n```\n", "train.py has no --none"),
        ("```bash\nbash docker_start.sh --\n```\n", "-- without a command"),
        ("```bash\nbash test/none.sh\n```\n", "there is no test/none.sh"),
        ("`python trian.py`", "there is no trian.py"),
        ("```bash\npython train.py --none\n```\n", "train.py has no --none"),
        ("```bash\npython train.py --epoch 3\n```\n", "train.py has no --epoch"),  # an abbreviation is no flag
        ("```bash\npython train.py \\\n    --none=3\n```\n", "train.py has no --none"),
        ("```bash\nsource a && python val.py --epochs 3\n```\n", "val.py has no --epochs"),
        ("```bash\npython train.py --epochs none\n```\n", "is not a whole number"),
        ("```bash\npython train.py --evaluate\n```\n", "--evaluate needs --resume"),
        ("```bash\npython demo.py --onnx a.onnx --tta\n```\n", "--tta"),
        ("`python preprocess_dsb2018.py --size 96`", "preprocess_dsb2018.py has no --size"),
        ("```bash\nbash test/train_full_1p.sh --none=3\n```\n", "test/train_full_1p.sh has no --none"),
        ("```bash\nbash test/train_full_1p.sh --num_gpus=3\n```\n", "test/train_full_1p.sh has no --num_gpus"),
        ("```bash\nbash test/train_full_1p.sh --epochs 3\n```\n", "--epochs needs a value"),
        ("```bash\nbash test/train_full_1p.sh --seed=none\n```\n", "is not a whole number"),
        ("```bash\nbash quickstart.sh --arch=UNet\n```\n", "quickstart.sh has no --arch"),
        ("```bash\nbash benchmarks/accuracy.sh --none\n```\n", "benchmarks/accuracy.sh has no --none"),
        ("```bash\ntorchrun --none=2 train.py\n```\n", "torchrun has no --none"),
        ("```bash\ntorchrun --nproc_per_node=2 train.py --none\n```\n", "train.py has no --none"),
        ("```bash\npython benchmarks/run.py --none\n```\n", "benchmarks/run.py has no --none"),
        ("```bash\npython test/faults/run.py --none\n```\n", "test/faults/run.py has no --none"),
    ],
)
def test_the_check_finds_wrong_commands(text: str, problem: str | None) -> None:
    found = [problem for words in commands(text) for problem in command_problems(words)]
    if problem is None:
        assert found == []
    else:
        assert found and problem in found[0]


@pytest.mark.parametrize(
    "page, text, expected",
    [
        ("README.md", "`--batch-size 3`, `--nproc_per_node=2`, `--quick`, `-1`, `--data=PATH`", []),
        ("README.md", "`--none`", ["--none"]),
        ("README.md", "`--compile`", ["--compile"]),
        ("CHANGELOG.md", "`--compile`", []),
    ],
)
def test_the_check_finds_unknown_flags(page: str, text: str, expected: list[str]) -> None:
    assert unknown_flags(ROOT / page, text) == expected


def test_table_of_launchers() -> None:
    """Its names and units are those that the launchers set."""
    text = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(train_\w+\.sh)` \| `(\w+)` \| (\w*) ?\|$", text, re.MULTILINE)
    assert {name for name, _, _ in rows} == {path.name for path in (ROOT / "test").glob("train_*.sh")}
    for name, case, unit in rows:
        script = (ROOT / "test" / name).read_text(encoding="utf-8")
        fields = dict(re.findall(r"^(network|kind|time_unit)='?(\w+)'?$", script, re.MULTILINE))
        size = "bs128_8p" if "_8p" in name else "bs16_1p"
        assert case == f"{fields['network']}_{size}_{fields['kind']}"
        assert unit == {"ms": "milliseconds", "s": "seconds", None: ""}[fields.get("time_unit")]
