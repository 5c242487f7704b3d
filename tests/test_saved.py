"""One save replaces another at one moment: whoever is killed, whoever reads or writes beside."""

import json
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from more_scvi._files import PREFIX, read_json
from more_scvi._saved import SUMS, file_of, read_saved, write_saved

ROLES = ("w.bin", "g.tsv.gz", "d.big")


def write(folder, k, big=True):
    files = {"w.bin": b"w%d" % k * 1000, "g.tsv.gz": b"g%d" % k}
    if big:
        files["d.big"] = lambda path: path.write_text(f"d{k}")
    write_saved(folder / "card.json", {"k": k}, files, ROLES)


def read(folder):
    """Number of the save, after checking that all of it is of one save."""
    card, files = read_saved(folder / "card.json", read_json, ROLES[:2], "Save again.")
    k = card["k"]
    assert files == {"w.bin": b"w%d" % k * 1000, "g.tsv.gz": b"g%d" % k}
    return k


def killed(step, function, *args, **kwargs):
    """Run in a child that is killed, as by the system, before its ``step``-th rename or removal; whether it was."""
    child = os.fork()
    if child == 0:
        count = iter(range(1000))

        def dying(real):
            def call(*given, **options):
                if next(count) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*given, **options)

            return call

        os.replace, Path.unlink = dying(os.replace), dying(Path.unlink)
        try:
            function(*args, **kwargs)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_at_any_step_leaves_one_whole_save(tmp_path):
    write(tmp_path, 0)
    current, seen = 0, set()
    for step in range(40):
        if not killed(step, write, tmp_path, current + 1, big=step % 2 == 0):
            break
        found = read(tmp_path)
        assert found in (current, current + 1)
        seen.add(found - current)
        card = read_json(tmp_path / "card.json")
        data = file_of(tmp_path / "card.json", card, "d.big")
        assert data is None or data.read_text() == f"d{found}"
        current = found
    else:
        pytest.fail("never finished")
    assert step > 6 and seen == {0, 1}
    write(tmp_path, 99, big=False)
    assert read(tmp_path) == 99
    assert len([p for p in tmp_path.iterdir() if not p.name.startswith(PREFIX)]) == 3


def test_readers_beside_a_writer_read_one_save(tmp_path):
    write(tmp_path, 0)
    with ThreadPoolExecutor(2) as threads:
        writing = threads.submit(lambda: [write(tmp_path, k) for k in range(1, 60)])
        seen = [0]
        while not writing.done():
            seen.append(read(tmp_path))
        writing.result()
    assert seen == sorted(seen) and read(tmp_path) == 59


def test_writers_take_turns(tmp_path):
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda k: write(tmp_path, k), range(40)))
    assert read(tmp_path) in range(40)
    assert len(list(tmp_path.iterdir())) == 4


def test_files_of_another_save_are_refused(tmp_path):
    for k in (1, 2):
        write(tmp_path / str(k), k)
    os.replace(tmp_path / "1" / "w.bin", tmp_path / "2" / "w.bin")
    with pytest.raises(ValueError, match=r"w\.bin: truncated or changed.*card\.json"):
        read(tmp_path / "2")
    with pytest.raises(FileNotFoundError, match=r"w\.bin not found"):
        read(tmp_path / "1")


@pytest.mark.parametrize("sums", [{}, [], 3, None, {"w.bin": None}, {"../w.bin": "0" * 64}])
def test_cards_with_other_sums_are_refused(tmp_path, sums):
    write(tmp_path, 0)
    card = read_json(tmp_path / "card.json")
    (tmp_path / "card.json").write_text(json.dumps(card | {SUMS: sums}))
    with pytest.raises(ValueError, match="card.json"):
        read(tmp_path)


def test_cards_without_sums_are_of_an_earlier_version(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("more_scvi"), "propagate", True)
    write(tmp_path, 0)
    (tmp_path / "card.json").write_text('{"k": 0}')
    assert read(tmp_path) == 0 and "without checksums" in caplog.text
    write(tmp_path, 1)
    assert read(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["card.json", "d-2.big", "g-2.tsv.gz", "w-2.bin"]
