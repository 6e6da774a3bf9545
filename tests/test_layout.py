"""The project's shape: one-way imports, documented names, short files, no machine's paths."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "reft_lib"

# The flow. A module imports only what stands before it here, and every module stands here.
FLOW = [
    "__init__",
    "errors",
    "parallel",
    "settings",
    "config",
    "method_settings",
    "method_settings_rlhf",
    "method_settings_adversarial",
    "machine",
    "runlog",
    "trackers",
    # text: problems, answers, examples
    "sandbox_worker",
    "sandbox",
    "grader_worker",
    "grader_sandbox",
    "kinds",
    "paths",
    "problems",
    "wording",
    "diversity",
    "corpus",
    "number_words",
    "numerals",
    "answers",
    "fetch",
    "examples",
    "answer_cases",
    "svamp",
    "derivation",
    "gsm8k",
    "mathqa_formula",
    "mathqa",
    "gsm_symbolic",
    "embedded",
    "data",
    "workshop",
    "soundness",
    "prompts",
    # networks
    "smollm2",
    "switch",
    "elementwise",
    "frozen",
    "low_rank",
    "attention",
    "fused",
    "models",
    "memory",
    "cost",
    "gpu_time",
    "lora",
    "adapter_files",
    "value",
    # pure functions of tensors: they know nothing of models or text
    "kl",
    "advantage",
    "vocabulary",
    "losses",
    "relative_losses",
    "groups",
    # what can be stopped and taken up again
    "loop",
    "resume",
    # sampling, rewarding, and the loops
    "decode",
    "projection",
    "llama_decode",
    "rectangle",
    "ragged_attention",
    "ragged",
    "rollout",
    "rewards",
    "shared_rollout",
    "handover",
    "handover_ray",
    "grader_template",
    "grader_formula",
    "grader_text",
    "grader_types",
    "grader_spec",
    "grader_models",
    "grader_run",
    "graders",
    "rft_data",
    "sft",
    "packing",
    "instruction_words",
    "instructions",
    "instruction_tuning",
    "language_modelling",
    "encoder",
    "masked",
    "virtual_adversarial",
    "pretrain",
    "pretrain_encoder",
    "ppo",
    # measuring and showing
    "stats",
    "evaluate",
    "votes",
    "rft_graders",
    "self_training",
    "relatives",
    "gradient_noise",
    "samples",
    "scorer",
    "verifier",
    "preferences",
    "pairwise",
    "reward_model",
    "dpo",
    "best_of",
    "discriminator",
    "adversarial",
    "results",
    "paper",
    "task",
    "phases",
    "unit",
    "handover_files",
    "side_by_side",
    "compare",
    "reproduce",
    "bench",
    "study",
    "study_instruct",
    "study_domain",
    "study_self_supervised",
    "study_baselines",
    "study_rft",
    "study_adversarial",
    "study_relatives",
    "study_rlhf",
    "studies",
    "lens_log",
    "lens_record",
    "style",
    "hardware",
    "pages",
    "diagrams",
    "overviews",
    "lens",
    "plots",
    "bars",
    "instruct_plots",
    "strategy_plots",
    "ablation_plots",
    "domain_plots",
    "relatives_plots",
    "rlhf_plots",
    "cost_plots",
    "scoreboard",
    "rft_plots",
    "adversarial_plots",
    "explorer",
    "taxonomy",
    "widget_losses",
    "widget_rewards",
    "widget_tokens",
    "widget_returns",
    "widget_logs",
    "widget_replay",
    "widget_votes",
    "widget_hacking",
    "widget_chooser",
    "widgets",
    "notebook",
    "speed_case",
    "speed_work",
    "speed_records",
    "speed",
    "speed_plots",
    "commands",
    "cli",
    "__main__",
]
MAX_LINES = 300

MODULES = sorted(LIBRARY.rglob("*.py"))


def module_name(path: Path) -> str:
    """Name a library file by its dotted path below reft_lib."""
    return ".".join(path.relative_to(LIBRARY).with_suffix("").parts)


def imported_modules(source: str, known: set[str]) -> set[str]:
    """Find the library modules that a source imports, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = f"reft_lib.{base}".rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] != "reft_lib":
                continue
            # reft_lib.config.PRESETS is module config; reft_lib.__version__ is the package itself
            found.add(parts[1] if len(parts) > 1 and parts[1] in known else "__init__")
    return found


def third_party_imports(source: str) -> set[str]:
    """Find the packages that a source imports and that are not Python's own."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"reft_lib"}


def files_in_git() -> list[Path]:
    """List what git tracks or would track; without git, every file outside built folders."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        skipped = {".git", ".venv", "_build", "__pycache__"}
        return [
            path
            for path in ROOT.rglob("*")
            if path.is_file() and not skipped & set(path.relative_to(ROOT).parts)
        ]
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_imports_are_read_in_every_form() -> None:
    source = """
import torch, reft_lib.config
from reft_lib import errors, __version__
from . import data
from .losses import masked_mean
def late():
    from reft_lib.kl import k1
"""
    known = {"config", "errors", "data", "losses", "kl", "plots"}
    expected = {"config", "errors", "__init__", "data", "losses", "kl"}
    assert imported_modules(source, known) == expected


def test_every_place_in_the_flow_is_taken_once() -> None:
    assert len(set(FLOW)) == len(FLOW)


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_imports_only_what_stands_before_it(path: Path) -> None:
    name = module_name(path)
    assert name in FLOW, f"reft_lib/{name}.py has no place in the flow; give it one in FLOW"
    allowed = set(FLOW[: FLOW.index(name)])
    used = imported_modules(path.read_text(encoding="utf-8"), {module_name(p) for p in MODULES})
    assert used <= allowed, f"{name} imports {sorted(used - allowed)}, which stand after it"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_public_names_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for outer in [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]:
        for node in outer.body:
            if isinstance(node, documented) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    missing.append(node.name)
    assert not missing, f"no docstring: {missing}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_is_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines < MAX_LINES, f"{lines} lines; a module has fewer than {MAX_LINES}"


def test_every_imported_package_is_required() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    loose = [*project["dependencies"], *extras["gguf"], *extras["data"]]
    loose_names, optional = (
        {re.match(r"[\w-]+", line).group().lower() for line in lines}  # type: ignore[union-attr]
        for lines in (loose, extras["data"])
    )
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    pinned_names = {name.lower() for name in re.findall(r"^([\w-]+)==", pins, re.MULTILINE)}
    for path in MODULES:
        used = third_party_imports(path.read_text(encoding="utf-8"))
        if path.name == "speed_work.py":  # what the benchmark holds itself against, if it is there
            used -= {"trl"}
        assert used <= loose_names, f"{path.name}: {used - loose_names} not in pyproject.toml"
        missing = used - pinned_names - optional
        assert not missing, f"{path.name}: {missing} not in requirements.txt"


def test_every_module_has_its_section_in_the_book() -> None:
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    sections = re.findall(r"^\.\. automodule:: reft_lib\.(\w+)", page, re.MULTILINE)
    # not called from Python
    hidden = {"__init__", "__main__", "cli", "commands", "sandbox_worker", "grader_worker"}
    missing = [m for m in map(module_name, MODULES) if m not in hidden and m not in sections]
    assert not missing, f"book/api.md has no section for {missing}"
    assert sections == [m for m in FLOW if m in sections], "book/api.md is not in the flow's order"


def test_no_file_holds_a_path_of_one_machine() -> None:
    # Written in two halves, so that this file does not hold what it looks for.
    folders = "|".join(["wo" + "rk", "ro" + "ot", "ho" + r"me/[a-z]", "Us" + r"ers/[A-Za-z]"])
    pattern = re.compile(rf"(?<![\w.\-~}})/])/(?:{folders})[/\w]|/tmp" + r"/[\w]")
    found = []
    for path in files_in_git():
        if "_assets" in path.parts:
            continue  # other people's files, unchanged
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match.group()}")
    assert not found, "\n".join(found)
