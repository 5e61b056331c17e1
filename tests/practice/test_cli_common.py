"""What all commands share: help, defaults from a file, JSON, exit statuses."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import warnings

import numpy as np
import pytest

import dropcore
import dropcore.demo
from dropcore.cli import main
from dropcore.cli._command import Result
from dropcore.cli._defaults import with_defaults
from dropcore.cli._main import COMMANDS
from dropcore.cli._output import check_output, print_result

HEAVY = ("pandas", "sklearn", "optuna", "matplotlib", "tqdm", "safetensors", "dropcore.training")


def error_of(arguments, capsys, status=2):
    """The message of a command that fails, without its name."""
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


@pytest.fixture
def defaults(tmp_path):
    """Writes a file of defaults and returns its path."""

    def write(text):
        path = tmp_path / "defaults.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def bench(capsys, *arguments):
    assert main(["bench", "--elements", "50", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_help_and_errors_import_nothing_heavy():
    code = (
        "import sys; from dropcore.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_documents_the_commands_and_the_exit_statuses(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    for command in COMMANDS.values():
        assert re.search(rf"\n    {command.name}\s", out)
    for status in ("0    success", "1    ", "2    ", "3    ", "130  "):
        assert f"\n  {status}" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples_that_parse(name, capsys):
    command = COMMANDS[name]
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert " ".join(command.description.split()) in " ".join(out.split())
    assert command.examples
    for example in command.examples:
        assert f"\n  {example}\n" in out
        words = shlex.split(example.removeprefix("mpirun -n 4 "))
        assert words[:2] == ["dropcore", name]
        assert main_parses(words[1:])


def main_parses(words):
    from dropcore.cli._main import parser

    return parser().parse_args(words).command == words[0]


def test_a_file_gives_defaults_and_what_is_typed_takes_precedence(capsys, defaults):
    config = ["--config", defaults("rate = 0.25\n[bench]\nrounds = 2\n[demo]\nepochs = 3\n")]
    found = bench(capsys, *config)
    assert (found["rate"], found["rounds"]) == (0.25, 2)
    found = bench(capsys, "--rounds=1", *config)
    assert (found["rate"], found["rounds"]) == (0.25, 1)


@pytest.mark.parametrize("typed", [["-o", "b"], ["-ob"], ["--output", "b"], ["--output=b"]])
def test_an_option_that_is_typed_is_not_taken_from_the_file(typed, defaults):
    words = ["train", "a.csv", "--target", "y", *typed]
    assert (
        with_defaults([*words, "--config", defaults("output = 'a'")], COMMANDS)[: len(words)]
        == words
    )


@pytest.mark.parametrize("again", [["--rounds", "2"], ["--rounds=1"]])
def test_an_option_is_given_once(again, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--rounds", "1", *again])
    assert "argument --rounds: is given twice: give it once" in capsys.readouterr().err


def test_a_table_takes_precedence_over_the_top_of_the_file(capsys, defaults):
    config = defaults("rate = 0.25\nrounds = 1\n[bench]\nrate = 0.75\n")
    assert bench(capsys, "--config", config)["rate"] == 0.75


def test_a_file_sets_flags_and_threads(capsys, defaults):
    before = dropcore.get_num_threads()
    config = defaults("threads = 1\n[bench]\njson = true\nrounds = 1\n")
    try:
        assert main(["bench", "--elements", "50", "--config", config]) == 0
        assert json.loads(capsys.readouterr().out)["threads"] == 1
    finally:
        dropcore.set_num_threads(before)
    config = defaults("rounds = 1\n[bench]\njson = false\n")
    assert main(["bench", "--elements", "50", "--config", config]) == 0
    assert capsys.readouterr().out.startswith("dropcore ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[bench]\nround = 1", "[bench] round is no option; did you mean 'rounds'?"),
        ("round = 1", "round is no option; did you mean 'rounds'?"),
        ("[demo]\nepoch = 1", "[demo] epoch is no option; did you mean 'epochs'?"),
        ("[banch]\nrounds = 1", "no command 'banch' for the table [banch]; did you mean 'bench'?"),
        ("config = 'a.toml'", "config is no option"),
        ("[bench]\nrounds = 0", "rounds: must be an integer of at least 1, got '0'"),
        ("[bench]\nrounds = true", "rounds must be a number or a string, got True"),
        ("[bench]\njson = 1", "json must be true or false, got 1"),
        ("[bench]\nrate = {a = 1}", "rate must be a number or a string, got {'a': 1}"),
        ("rounds 1", "is not valid TOML"),
    ],
)
def test_a_file_with_mistakes_is_refused(text, message, capsys, defaults):
    path = defaults(text)
    err = error_of(["bench", "--config", path], capsys)
    assert message in err
    assert "defaults.toml" in err


def test_a_missing_file_of_defaults_is_named(capsys, tmp_path):
    err = error_of(["bench", "--config", str(tmp_path / "no.toml")], capsys)
    assert err.startswith("dropcore bench: --config: there is no file")


def test_abbreviations_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "--round", "1"])
    assert stopped.value.code == 2
    assert "--round" in capsys.readouterr().err


def test_a_diverged_training_has_a_status_of_its_own(monkeypatch, tmp_path, capsys):
    def diverges(*args, **kwargs):
        raise FloatingPointError("the loss is nan at step 3")

    monkeypatch.setattr(dropcore.demo, "run_demo", diverges)
    err = error_of(["demo", "--output", str(tmp_path / "a.png")], capsys, status=3)
    assert err == "dropcore demo: the loss is nan at step 3\n"


def test_a_variable_shows_where_an_error_comes_from(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("DROPCORE_TRACEBACK", "1")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("dropcore demo: ")


@pytest.mark.filterwarnings("always::UserWarning")
def test_warnings_are_a_line_each(monkeypatch, tmp_path, capsys):
    before = warnings.showwarning
    monkeypatch.setattr(
        dropcore.demo, "run_demo", lambda *_, **__: warnings.warn("watch out", stacklevel=1)
    )
    assert main(["demo", "--output", str(tmp_path / "a.png")]) == 0
    assert capsys.readouterr().err == "dropcore demo: warning: watch out\n"
    assert warnings.showwarning is before


def test_json_is_strict(capsys):
    data = {
        "array": np.arange(3, dtype=np.float32),
        "numbers": [np.int64(4), float("nan"), (float("inf"), np.float32(0.5))],
        "text": "é",
    }
    print_result(Result("", data), as_json=True)
    out = capsys.readouterr().out
    assert json.loads(out) == {
        "array": [0, 1, 2], "numbers": [4, None, [None, 0.5]], "text": "é",
    }  # fmt: skip


def test_outputs_are_checked(tmp_path):
    path = tmp_path / "a"
    check_output(path)
    path.write_text("")
    with pytest.raises(
        FileExistsError, match="exists already: choose another name, or add --force"
    ):
        check_output(path)
    check_output(path, force=True)
    with pytest.raises(IsADirectoryError, match="name a file"):
        check_output(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such directory"):
        check_output(tmp_path / "b" / "c")


def test_bench_counts_and_compares_with_a_copy(capsys):
    found = bench(capsys, "--rounds", "1")
    rows = {row["what"]: row for row in found["measurements"]}
    assert rows.keys() == {
        "copy", "dropout", "dropout, backward", "packed mask", "dropout by NumPy",
    }  # fmt: skip
    assert rows["copy"]["copies"] == 1
    for row in rows.values():
        assert row["elements"] == 50
        assert row["gb_per_s"] * row["ns_per_element"] == pytest.approx(8)
    assert main(["bench", "--elements", "50", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert f"{found['isa']}, {found['threads']} threads, float32, rate 0.5" in out


def test_info_as_json(capsys):
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    build = dropcore.build_info()
    assert found["dropcore"] == build["version"]
    assert (found["isa"], found["threads"]) == (build["isa"], build["threads"])
    assert found["extras"]["plot"].keys() == {"installed", "missing"}
