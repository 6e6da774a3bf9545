"""The command line: help, and one clear line for whatever does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reft_lib import cli, commands, problems, studies, study
from reft_lib.cli import COMMANDS, main
from reft_lib.config import PRESETS
from reft_lib.errors import NumericalError, UserError
from reft_lib.study import Study

ROOT = Path(cli.__file__).resolve().parents[1]


def run(*args: str) -> subprocess.CompletedProcess:
    """Run the command line as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "reft_lib", *args],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def refused(capsys, line: str) -> str:
    """Check that a command line is refused with status 2 and a single line; return it."""
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("error: "), err
    return err.strip()


def test_help_lists_every_command():
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    for name in ("compare", "table", "pretrain-nano", "pretrain-encoder", "make-problems"):
        assert name in COMMANDS
        assert any(line.split()[:1] == [name] for line in done.stdout.splitlines())


def test_help_is_quick_and_loads_nothing_heavy():
    """Under a second; the fastest of three, since other programs may be running."""

    def seconds() -> float:
        began = time.perf_counter()
        assert run("--help").returncode == 0
        return time.perf_counter() - began

    assert min(seconds() for _ in range(3)) < 1.0
    code = "import sys; sys.argv = ['reft_lib', '--help']\nimport reft_lib.cli as cli\n"
    code += "try:\n    cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
    code += "print(sorted({'torch', 'transformers', 'peft', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_importing_the_loops_takes_little_beyond_torch():
    """Under 0.2 s for what ReFT needs, once torch is there; transformers comes with a model."""
    code = (
        "import time, torch; began = time.perf_counter(); import reft_lib.ppo, reft_lib.sft; "
        "import sys; print(time.perf_counter() - began, 'transformers' in sys.modules)"
    )
    found = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
        )
        seconds, heavy = done.stdout.split()
        assert heavy == "False"
        found.append(float(seconds))
    assert min(found) < 0.2


def test_an_unknown_command_ends_the_process_with_one_line():
    done = run("comprae", "--preset", "nano")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        f"error: unknown command 'comprae'; there are: {', '.join(COMMANDS)}"
    ]


def test_no_command_shows_the_overview(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "usage: python -m reft_lib COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_for_its_options(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert not stop.value.code
    out = capsys.readouterr().out
    assert f"python -m reft_lib {name}" in out
    expected = {"compare": "--ppo.beta", "table": "PATH", "pretrain-nano": "--steps"}
    assert expected.get(name, "--out") in out


def test_help_shows_the_presets_own_values(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--preset", "smollm2-svamp-mini", "--help"])
    assert "smollm2-135m-instruct" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("compare --preset nonano", "unknown preset 'nonano'; there are: nano"),
        ("compare --preset=nonano", "unknown preset 'nonano'"),
        ("compare --preset", "'--preset'"),
        ("compare --formatz ncot", "unknown option '--formatz'; python -m reft_lib compare --help"),
        ("compare --ppo.bta 0.1", "unknown option '--ppo.bta'"),
        (
            "compare --sft.epochs many",
            "--sft.epochs: invalid literal for int() with base 10: 'many'",
        ),
        ("compare --sft.epochs", "'--sft.epochs'"),
        ("compare --formats xcot", "invalid choice 'xcot' for argument '--formats'"),
        ("compare --ppo.value-trunk none", "'shared', 'detached', 'separate'"),
        ("compare --seed 3", "--seed is not for compare; use --preset, --formats, --seeds"),
        ("compare --fmt pcot", "--fmt is not for compare"),
        ("table", "PATH"),
        ("table one two", "unknown option 'two'"),
        ("pretrain-nano --stpes 3", "unknown option '--stpes'"),
        ("Table runs", "unknown command 'Table'"),
    ],
)
def test_what_does_not_fit_is_named_in_one_line(line, said, capsys):
    assert said in refused(capsys, line)


def test_study_without_a_name_lists_all_with_their_arms(capsys):
    assert main(["study"]) == 0
    out = capsys.readouterr().out
    for name in studies.names():
        assert f"{name}: {studies.get(name).about}" in out
        assert ", ".join(studies.get(name).arms) in out


def test_study_runs_a_study(capsys, monkeypatch, tmp_path):
    made = Study("made", "is it run?", {"one": {"x": 1}}, run=lambda bench, settings: settings)
    asked = []
    monkeypatch.setattr(studies, "get", lambda name: made)
    monkeypatch.setattr(study, "run_study", lambda *arguments: asked.append(arguments))
    line = f"study made --seeds 3 4 --arms one --jobs 1 --out {tmp_path}"
    assert main(line.split()) == 0
    assert asked == [(made, (3, 4), ("one",), tmp_path, 1)]


def test_a_folder_without_runs_is_named(tmp_path, capsys):
    assert f"{tmp_path}: no finished runs" in refused(capsys, f"table {tmp_path}")


@pytest.mark.parametrize("command", ["pretrain-nano", "pretrain-encoder", "make-problems"])
def test_a_folder_that_cannot_be_written_is_named(command, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = refused(capsys, f"{command} --out {tmp_path / 'file' / 'below'}")
    assert "below: Not a directory; choose --out" in line


def test_options_change_the_preset_and_nothing_else():
    line = "compare --preset smollm2-svamp-mini --ppo.beta 0.5 --seeds 3 4 --formats pcot --no-bf16"
    command = cli.parse(line.split())
    before = PRESETS["smollm2-svamp-mini"]
    assert command.preset == "smollm2-svamp-mini"
    assert (command.seeds, command.formats) == ((3, 4), ("pcot",))
    assert command.config.ppo.beta == 0.5 and not command.config.bf16
    assert command.config.sft == before.sft and command.config.model == before.model
    assert command.config.ppo.steps == before.ppo.steps


def test_compare_hands_its_options_on(monkeypatch, capsys):
    from reft_lib import compare, results

    called = []
    monkeypatch.setattr(compare, "compare", lambda *args: called.append(args))
    monkeypatch.setattr(results, "as_text", lambda frame: "the table")
    line = "compare --n-train 64 --seeds 7 --formats ncot --out runs --jobs 2 --adapters best"
    assert main(line.split()) == 0
    ((config, seeds, formats, out, jobs, adapters),) = called
    assert (config.n_train, config.n_test) == (64, PRESETS["nano"].n_test)
    assert (seeds, formats, out, jobs) == ((7,), ("ncot",), Path("runs"), 2)
    assert adapters == Path("best")
    assert capsys.readouterr().out == "the table\n"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("row 3 is empty; it must have text"), 2, "error: row 3 is empty; it must"),
        (NumericalError("step 4: loss is nan"), 2, "error: step 4: loss is nan"),
        (KeyboardInterrupt(), 130, "stopped; what was saved is kept"),
    ],
)
def test_what_goes_wrong_in_a_run_is_one_line(error, status, said, monkeypatch, capsys):
    def fail(self):
        raise error

    monkeypatch.setattr(commands.MakeProblems, "run", fail)
    assert main(["make-problems"]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(said)


def test_make_problems_writes_where_it_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(problems, "SPLITS", {"train": (4, (1, 2)), "hard": (2, (5,))})
    assert main(["make-problems", "--out", str(tmp_path / "new")]) == 0
    lines = {path.name: path.read_text().count("\n") for path in (tmp_path / "new").iterdir()}
    assert lines == {"train.jsonl": 4, "hard.jsonl": 2}
    assert capsys.readouterr().out == f"wrote {tmp_path / 'new'}\n"
