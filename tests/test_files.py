import os
import signal
import subprocess
import sys
import time

import pytest

from more_scvi._files import PREFIX, STALE, atomic_path, check_writable, sweep, write_files


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replaces_whole_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old" and partial.suffix == ".txt" and partial.parent == tmp_path
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]
    with pytest.raises(ZeroDivisionError), atomic_path(path) as partial:
        partial.write_bytes(bytes(1 // 0))
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_mode_of_the_old_file_is_kept(tmp_path, mode):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(mode)
    with atomic_path(path) as partial:
        assert partial.stat().st_mode & 0o077 & ~mode == 0  # never readable to more people, not even for a moment
        partial.unlink()
        partial.write_text("new")  # as writers do that make a file of their own
        partial.chmod(0o604)
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == mode


def test_mode_of_a_new_file_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a") as partial:
            partial.chmod(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real").write_text("old")
    (tmp_path / "link").symlink_to("far/real")
    with atomic_path(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "real").read_text() == "new"


def test_names_cannot_be_foreseen(tmp_path, monkeypatch):
    seen = set()
    for _ in range(20):
        with atomic_path(tmp_path / "a") as partial:
            seen.add(partial.name)
    assert len(seen) == 20
    monkeypatch.setattr("more_scvi._files.secrets.token_hex", lambda n: "guessed")
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / f"{PREFIX}guessed").symlink_to("theirs")
    with pytest.raises(FileExistsError), atomic_path(tmp_path / "b"):
        pass
    assert (tmp_path / "theirs").read_text() == "precious"


def test_several_files_change_only_together(tmp_path):
    files = {tmp_path / "a": "text", tmp_path / "b": b"bytes", tmp_path / "c": lambda path: path.write_text("called")}
    write_files(files)
    assert [path.read_text() for path in files] == ["text", "bytes", "called"]
    with pytest.raises(OSError, match="No space"):
        write_files(
            {tmp_path / "a": "other", tmp_path / "c": lambda path: (_ for _ in ()).throw(OSError("No space left"))}
        )
    assert (tmp_path / "a").read_text() == "text" and names(tmp_path) == ["a", "b", "c"]


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    code = (
        "import sys, time\nfrom more_scvi._files import atomic_path\nwith atomic_path(sys.argv[1]) as partial:\n"
        " partial.write_text('half'); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    [left] = tmp_path.iterdir()
    with atomic_path(tmp_path / "b"):
        pass
    assert left.exists()  # it might still be written to
    os.utime(left, (time.time() - STALE - 1,) * 2)
    (tmp_path / ".other").touch()
    sweep(tmp_path)
    assert names(tmp_path) == [".other", "b"]


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("none/a", FileNotFoundError, "The folder of --output does not exist"),
        ("", IsADirectoryError, "--output is a folder"),
        ("/dev/null", IsADirectoryError, "a device"),
        ("/proc/a", PermissionError, "--output cannot be written"),
    ],
)
def test_says_before_the_work_what_cannot_be_written(tmp_path, path, error, says):
    with pytest.raises(error, match=says):
        check_writable(tmp_path / path, "--output")
    check_writable(tmp_path / "a", "--output")
    assert not names(tmp_path)
