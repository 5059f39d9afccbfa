"""Templates for inner sessions are shared by all who name the same lock, and end after the last one."""

from __future__ import annotations

import os
from pathlib import Path

from interpreters import Template


def parent_of_a_session(template: Template, directory: Path) -> int:
    """The process that an inner session is forked from."""
    script, told = directory / "script.py", directory / "told"
    script.write_text(f"import os; open({str(told)!r}, 'w').write(str(os.getppid()))")
    with open(os.devnull, "r+") as null:
        process = template.run([], directory, dict(os.environ), [null.fileno()] * 3, script=script)
    assert process.wait(100) == 0
    return int(told.read_text())


def test_a_template_is_shared_and_ends_after_the_last_user(tmp_path: Path) -> None:
    """Whoever started it; who comes later gets a new one."""
    lock = tmp_path / "lock"
    first, second = Template(lock), Template(lock)
    shared = parent_of_a_session(first, tmp_path)
    first.close()
    assert parent_of_a_session(second, tmp_path) == shared
    second.close()
    third = Template(lock)
    try:
        assert parent_of_a_session(third, tmp_path) != shared
    finally:
        third.close()


def test_a_template_outlives_a_user_that_is_killed(tmp_path: Path) -> None:
    """The other user goes on, and closes it."""
    lock = tmp_path / "lock"
    if (pid := os.fork()) == 0:
        Template(lock)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    template = Template(lock)
    assert parent_of_a_session(template, tmp_path) > 0
    template.close()
