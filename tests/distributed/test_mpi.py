"""Training on several processes of this machine, under mpirun."""

import functools
import re
import sys

import numpy as np
import pytest

import dropcore
from support.mpi import launch, results

# Each launch takes seconds: what several tests need is launched once.
trainings = functools.cache(lambda ranks, blocks: results(ranks, "trainings", blocks))
refusals = functools.cache(lambda: results(3, "refusals"))


@pytest.mark.parametrize("ranks", [2, 4])
def test_blocks_end_in_the_same_bytes_on_any_number_of_ranks(ranks):
    (one,) = trainings(1, 4)
    for rank, found in enumerate(trainings(ranks, 4)):
        for name, (digest, history, _) in one.items():
            assert found[name][1] == history, (name, rank)
            assert found[name][0] == digest, (name, rank)


def test_three_ranks_agree_with_one_within_rounding():
    (one,) = trainings(1, 0)
    three = trainings(3, 0)
    for found in three:
        assert found == three[0]
        for name, (_, history, weights) in one.items():
            for metric, values in history.items():
                assert found[name][1][metric] == pytest.approx(values, rel=2e-4, abs=1e-5), metric
            np.testing.assert_allclose(found[name][2], weights, rtol=1e-3, atol=1e-5)


def test_the_masks_are_those_of_one_process():
    ((whole,), parts) = results(1, "masks", "."), results(3, "masks", ".")
    one = {step: rows for step, offset, rows in whole}
    assert len(one) == 3
    joined = {step: [None] * len(rows) for step, rows in one.items()}
    for rank in parts:
        for step, offset, rows in rank:
            joined[step][offset : offset + len(rows)] = rows
    assert joined == one


def test_each_rank_reads_its_row_groups_of_a_parquet_file(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    columns = {f"x{i}": rng.standard_normal(640) for i in range(3)} | {"y": np.arange(640) % 3}
    path = tmp_path / "x.parquet"
    parquet.write_table(arrow.table(columns), path, row_group_size=10)
    ((digest, history, every),) = results(1, "parquet", path, 4)
    assert set(every) == set(range(64))
    parts = results(4, "parquet", path, 4)
    for found in parts:
        assert found[:2] == [digest, history]
        assert 32 <= len(found[2]) <= 2 * (64 / 4 + 2)  # of two epochs, two of them at the cuts
    assert set().union(*(found[2] for found in parts)) == set(range(64))


def test_rank_0_writes_and_one_rank_may_stop_all(tmp_path):
    for rank, (seen, same, stopped) in enumerate(results(3, "files", tmp_path)):
        assert seen == [[rank, 3], 1, 2]
        assert same
        assert stopped
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "model.dropcore"]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("samples", "the number of samples must be the same on all ranks, got 90 on rank 0 and 80"),
        ("key", r"the key must be the same on all ranks, got Key\(seed=5.* on rank 2"),
        ("batch_size", "the argument batch_size must be the same on all ranks, got 32 on rank 0"),
        ("nan on one rank", "the values of x must be the same on all ranks, got those with"),
        ("values", "the values of y must be the same on all ranks, got those with checksum"),
        ("model", r"the model must be the same on all ranks, got Sequential\(.*UnitDropout"),
        ("epochs", "the number of epochs to train to must be the same on all ranks, got 3"),
        (
            "batches",
            "the ranks have different batches: this one has (30|27) rows, and the parts of",
        ),
        ("weights", "the state of the model must be the same on all ranks, got that of checksum"),
        ("version", "the version of dropcore must be the same on all ranks, got 1.0 on rank 0 and"),
    ],
)
def test_ranks_that_differ_are_refused(what, message):
    for found in refusals():
        assert re.search(message, found[what]), found[what]


def test_an_error_of_one_rank_is_raised_on_all_with_its_number():
    first, second, third = (found["nan"] for found in refusals())
    assert second == third
    assert second.startswith("RankError: rank 0 cannot train, so none does: ValueError: x must be")
    assert first.startswith("ValueError: x must be finite in float32, got nan at (7, 0)")
    for found in refusals():
        assert found["argument"].startswith("ValueError: batch_size must be at least 1, got 0")
        assert found["blocks"] == "ValueError: blocks=2 is for 1, 2 ranks, got 3"


def test_arguments_of_ranks():
    (found,) = results(1, "wrong_ranks")
    assert found == [
        "TypeError: comm must be a communicator of mpi4py, such as MPI.COMM_WORLD, or "
        "dropcore.distributed.Ranks, got 'MPI.COMM_WORLD'",
        "ValueError: comm must be an intracommunicator that this process belongs to, got "
        "MPI.COMM_NULL",
        "ValueError: Ranks: timeout must be positive and finite, got 0",
        "TypeError: Ranks: cuda_aware must be True or False, got 1",
        "Ranks(MPI_COMM_WORLD, timeout=9.0, cuda_aware=False)",
    ]


def test_ranks_can_train_after_they_were_refused():
    after = {found["after"] for found in refusals()}
    assert len(after) == 1


def test_a_loss_that_is_not_finite_names_its_rank():
    found = results(3, "nonfinite")
    assert found[0] == found[1] == found[2]
    message, step, _ = found[0]
    assert "the loss is nan at step 4, in epoch 2: on rank 1, " in message
    assert "the weight of layer 4" in message
    assert step == 3  # the start of the epoch


def test_a_rank_that_is_killed_ends_the_job_and_another_number_goes_on(tmp_path):
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    ((whole, history),) = results(1, "checkpointed", tmp_path / "whole", 4)
    killed = launch(4, "checkpointed", tmp_path / "parts", 4, "kill")
    assert killed.returncode != 0
    assert re.search(r"rank 2\b.*\n?.*signal (9|SIGKILL|Killed)", killed.stderr), killed.stderr
    found = results(2, "checkpointed", tmp_path / "parts", 4)
    assert found == [[whole, history]] * 2


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("stop", r"dropcore: rank 1 did not answer for 2 seconds in update 5; the job ends"),
        ("fail", r"dropcore: rank 1 failed in update 4: KeyError: 'a callback of one rank'; the"),
        ("interrupt", r"dropcore: rank 1 failed in update 4: KeyboardInterrupt: ; the job ends"),
        ("exit", r"dropcore: rank 1 failed in update 4: SystemExit: 3; the job ends"),
    ],
)
def test_a_rank_that_hangs_or_fails_ends_the_job_in_time(how, message):
    done = launch(3, "hanging", how, timeout=60)
    assert done.returncode != 0
    assert re.search(message, done.stderr), done.stderr
    if how != "stop":
        assert "waits 2 s for the error of the others" in done.stderr


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((80, 3))
    lines = [f"{a:.4f},{b:.4f},{c:.4f},{'yes' if a + b > 0 else 'no'}" for a, b, c in x]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["a,b,c,label", *lines]) + "\n")
    return path


def command(ranks, *words):
    return launch(ranks, "", command=[sys.executable, "-m", "dropcore", *map(str, words)])


def test_the_command_trains_on_all_ranks(table, tmp_path):
    models = []
    for ranks in (1, 2):
        path = tmp_path / f"{ranks}.dropcore"
        done = command(ranks, "train", table, "--target", "label", "--epochs", 3, "--units", "16",
                       "--blocks", 2, "-o", path)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("saved to") == 1
        models.append(dropcore.load(path))
    for name, array in models[0].params.items():
        assert np.array_equal(models[1].params[name], array), name
    assert models[1].training_state.call["blocks"] == "2"


def test_the_command_reports_an_error_once(table, tmp_path):
    done = command(2, "train", table, "--target", "nothing", "-o", tmp_path / "m.dropcore")
    assert done.returncode != 0
    assert done.stderr.count("dropcore train: ") == 1
    assert "nothing" in done.stderr
    done = command(2, "predict", table, table)
    assert done.returncode != 0
    assert "started this command 2 times, and only `dropcore train` shares its" in done.stderr
