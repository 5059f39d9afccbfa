"""A progress bar and the logs of ranks share a terminal: `python examples/tqdm_and_logs.py`.

Before lines are written, the tail sets `trigger_clear` and waits until the bar's side has set `cleared`; when
the lines are out it clears `trigger_clear`, and the bar is drawn again below them.
"""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tqdm import tqdm

from pytest_elastic.multiprocessing.tail_log import TailLog

STEPS = 40
RANK = f"""
import time
for step in range({STEPS}):
    time.sleep(0.05)
    if step % 10 == 0:
        print("loss", 1 / (step + 1), flush=True)
"""


def start_rank(path: str) -> subprocess.Popen[bytes]:
    with open(path, "wb") as log:
        return subprocess.Popen([sys.executable, "-c", RANK], stdout=log)


def make_room(bar: tqdm, events: dict[str, threading.Event], ended: threading.Event) -> None:
    """The bar's side: go away when asked, come back when the lines are out."""
    while not ended.is_set():
        if events["trigger_clear"].wait(0.05):
            with bar.get_lock():  # No other thread draws the bar meanwhile.
                bar.clear(nolock=True)
                events["cleared"].set()
                while events["trigger_clear"].is_set():
                    time.sleep(0.001)
                events["cleared"].clear()
                bar.refresh(nolock=True)


def main() -> None:
    events = {"trigger_clear": threading.Event(), "cleared": threading.Event()}
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as directory, tqdm(total=STEPS) as bar:
        logs = {rank: str(Path(directory) / f"{rank}.log") for rank in range(2)}
        ranks = [start_rank(path) for path in logs.values()]
        side = threading.Thread(target=make_room, args=(bar, events, ended))
        side.start()
        tail = TailLog("rank", logs, sys.stdout, progbar_events=events).start()
        for _ in range(STEPS):
            time.sleep(0.05)
            bar.update()
        for rank in ranks:
            rank.wait()
        tail.stop()
        ended.set()
        side.join()


if __name__ == "__main__":
    main()
