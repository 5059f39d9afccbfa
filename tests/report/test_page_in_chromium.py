"""The page in a real browser: what a person sees of it, and does with it."""

from __future__ import annotations

import shutil
from dataclasses import replace

import psutil
import pytest
from report.histories import failed_barrier, meeting, plain_failure

from pytest_elastic.events import (
    BarrierJoined,
    LineWritten,
    PhaseBegan,
    PhaseEnded,
    RankExited,
    RankStood,
    StoreCalled,
    WaitBegan,
    WaitEnded,
)
from pytest_elastic.report.exporters import EXPORTERS, RunHistory

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver import ActionChains  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed")
PHASE, WAIT = PhaseBegan(1.0, 0, "call"), WaitBegan(2.0, 0, 0, "wait", ("k",), ("k",), 300.0)
PASSED = PhaseEnded(3.5, 0, "call", "passed")
FAILED = PhaseEnded(3.5, 0, "call", "failed", "ValueError: boom", "t.py:41")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1280,800",
]  # fmt: skip


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """A browser for the module; at its end nothing of it is left."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in [*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    family = psutil.Process(driver.service.process.pid).children(recursive=True)
    yield driver
    driver.quit()
    _, alive = psutil.wait_procs(family, timeout=10)
    left = [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    for one in left:
        one.kill()
    assert left == []


class Page:
    """A page that is shown, in the words of one who looks at it."""

    def __init__(self, driver):
        self.driver = driver

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        (found,) = self.all(selector)
        return found

    def texts(self, selector):
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)"
        return self.driver.execute_script(script, selector)

    def boxes(self, selector):
        script = """return [...document.querySelectorAll(arguments[0])].map((one) => {
            const box = one.getBoundingClientRect();
            return [box.left, box.top, box.right, box.bottom];
        })"""
        return self.driver.execute_script(script, selector)

    def mouse(self):
        return ActionChains(self.driver, duration=0)

    def hover(self, element):
        self.mouse().move_to_element(element).perform()
        return self.one("#card").text

    def until(self, condition):
        WebDriverWait(self.driver, 20, poll_frequency=0.01).until(lambda _: condition())

    def pixels(self):
        """How many pixels the canvas has in each lane."""
        script = """const canvas = document.getElementById("dense"), lanes = [...document.querySelectorAll("g.lane .ground")];
            return lanes.map((lane) => {
                const {data} = canvas.getContext("2d").getImageData(0, lane.y.baseVal.value, canvas.width, lane.height.baseVal.value);
                let count = 0;
                for (let place = 3; place < data.length; place += 4) count += data[place] > 0;
                return count;
            })"""
        return self.driver.execute_script(script)

    def zoomed(self):
        return self.one("#chart").get_attribute("data-zoomed") == "true"


@pytest.fixture
def show(chromium, tmp_path):
    """Open a picture's page from disk; after the test its console must be empty, and nothing was fetched."""
    chromium.get_log("browser")

    def show(history):
        (tmp_path / "page.html").write_bytes(EXPORTERS["page.html"](history))
        chromium.get((tmp_path / "page.html").as_uri())
        return Page(chromium)

    yield show
    assert chromium.get_log("browser") == []
    assert chromium.execute_script("return performance.getEntriesByType('resource').length") == 0


def zoom_in(page, part):
    """Turn the wheel over this part of the chart's width."""
    script = """const lanes = document.getElementById("lanes"), box = lanes.getBoundingClientRect();
        const place = {clientX: box.left + box.width * arguments[0], clientY: box.top + 20};
        lanes.dispatchEvent(new WheelEvent("wheel", {...place, deltaY: -1000, bubbles: true, cancelable: true}))"""
    before = page.texts("#axis .tick-name")
    page.driver.execute_script(script, part)
    page.until(lambda: page.zoomed() and page.texts("#axis .tick-name") != before)


@pytest.mark.parametrize("nprocs", [2, 64])
def test_a_lane_for_each_rank(show, nprocs):
    """In order, named, with what became of it."""
    page = show(failed_barrier(nprocs))
    names = [lane.accessible_name for lane in page.all("[role=list] [role=listitem]")]
    waits = "waits at barrier “epoch1”"
    ends = [
        f"rank {rank}: {'call failed: ValueError: boom · killed by SIGKILL' if rank == 1 else waits}"
        for rank in range(nprocs)
    ]
    assert names == ends


# What became of a rank, and what it is called then.
BECAME = [
    ([PHASE, WAIT, WaitEnded(3.0, 0, 0, "jumped"), FAILED], "waited for “k” · call failed"),
    ([PHASE, WAIT, WaitEnded(3.0, 0, 0, "timed out"), PASSED], "call passed"),
    (
        [PHASE, WAIT, WaitEnded(3.0, 0, 0, "gone"), RankExited(4.0, 0, -15)],
        "waited for “k” · killed by SIGTERM",
    ),
    ([PHASE, WAIT, WaitEnded(3.0, 0, 0, "done"), FAILED], "call failed: ValueError: boom"),
    ([PHASE, RankStood(3.0, 0, "spinning")], "spinning"),
    ([PHASE], "in call"),
    ([PHASE, PASSED, RankExited(4.0, 0, 0)], "exited with code 0"),
]


def test_what_became_of_a_rank(show):
    """What it waited for in vain comes first, then its failure, then its end."""
    events = []
    for rank, (own, _) in enumerate(BECAME):
        events += [
            replace(one, rank=rank, **({"client": rank} if hasattr(one, "client") else {})) for one in own
        ]
    page = show(RunHistory("t", len(BECAME), sorted(events, key=lambda one: one.at)))
    names = [lane.accessible_name for lane in page.all("[role=list] [role=listitem]")]
    assert names == [f"rank {rank}: {state}" for rank, (_, state) in enumerate(BECAME)]


def test_the_cause_comes_first(show):
    """Title, verdict and cause on top; markup in them is text."""
    page = show(failed_barrier())
    assert page.one("#cause").text == "rank 1 failed before joining <epoch1>"
    assert page.one("h1").text == "tests/t.py::test_it[<b>]"
    assert page.one("#text").text.startswith("HANG  2 of 3 ranks can never go on")
    assert [badge.text for badge in page.all(".badge")] == ["HUNG", "DoomedWait"]


def test_a_failure_without_a_hang_is_told(show):
    """The cause, its traceback with links into files, what else was seen, and how to run it again."""
    page = show(plain_failure())
    said = {name: page.one(f"#{name}").text for name in ("cause", "headline", "command")}
    assert said == {
        "cause": "rank 1: ValueError: boom",
        "headline": "1 of 3 ranks failed: rank 1 alone",
        "command": "pytest t.py::test_it --elastic-replay=R1.2",
    }
    assert page.texts("#trace .wrong") == ["E   ValueError: boom"]
    links = [link.get_attribute("href") for link in page.all("#trace a")]
    assert links == ["file:///x/sub/t.py#L41", "file:///y/other.py#L7"]
    assert page.texts("#environment-rows *") == ["clock", "auto"]


def test_links_open_where_the_reader_wants(show):
    """The choice is kept for the next page."""
    page = show(plain_failure())

    def links():
        script = "return [...document.querySelectorAll('#trace a')].map((one) => one.href)"
        return page.driver.execute_script(script)

    page.one("#opener option[value=vscode]").click()
    assert links() == ["vscode://file/x/sub/t.py:41", "vscode://file/y/other.py:7"]
    page = show(plain_failure())
    assert links() == ["vscode://file/x/sub/t.py:41", "vscode://file/y/other.py:7"]
    page.one("#opener option[value=browser]").click()
    assert links() == ["file:///x/sub/t.py#L41", "file:///y/other.py#L7"]


def test_long_lines_are_whole_in_a_narrow_window(show):
    """Of a traceback, too: nothing has to be scrolled sideways."""
    history = plain_failure()
    failure = replace(
        history.failure, text="E   " + "a long message " * 40, sections=[("seen besides", "x" * 500)]
    )
    page = show(replace(history, failure=failure))
    script = "return [...document.querySelectorAll('pre, html')].filter((one) => one.scrollWidth > one.clientWidth).length"
    try:
        page.driver.set_window_size(500, 800)
        assert page.driver.execute_script(script) == 0
    finally:
        page.driver.set_window_size(1280, 800)


def test_a_pass_has_no_failure(show):
    """And nothing of it on its page."""
    page = show(RunHistory("t", 1, [PHASE, PASSED], outcome="passed"))
    for name in ("cause", "headline", "failure", "replay", "environment"):
        assert not page.one(f"#{name}").is_displayed()


@pytest.mark.parametrize(("culprits", "lanes"), [((1,), ["1", "0", "2"]), ((0, 1, 2), ["0", "1", "2"])])
def test_the_culprit_is_on_top_and_marked(show, culprits, lanes):
    """Unless all ranks are."""
    history = plain_failure()
    page = show(replace(history, failure=replace(history.failure, culprits=culprits)))
    assert [lane.get_attribute("data-lane") for lane in page.all("g.lane")] == lanes
    tops = [box[1] for box in page.boxes("g.lane .ground")]
    assert tops == sorted(tops)
    named = page.texts("g.lane text.name")
    assert named == (
        ["rank 1 · cause", "rank 0", "rank 2"] if lanes[0] == "1" else ["rank 0", "rank 1", "rank 2"]
    )


def test_barriers_have_the_names_that_users_gave_them(show):
    """Not the keys of the store that they are made of."""
    prefix = "world/barrier/epoch3/1"
    key = (f"{prefix}/last_member",)
    joined = BarrierJoined(1.0, 0, 0, prefix, 2, 1)
    waits = WaitBegan(1.1, 0, 0, "wait", key, key, 300.0)
    page = show(RunHistory("t", 2, [joined, waits, LineWritten(1.2, 1, "stdout", "")]))
    assert page.one("[data-lane='0']").accessible_name == "rank 0: waits at barrier “epoch3”"
    assert page.texts("#lanes text.said") == ["barrier “epoch3”"]
    assert "never joined barrier “epoch3”" in page.hover(page.one("#lanes circle.absent"))
    card = page.hover(page.one("#lanes rect.wait"))
    assert "barrier “epoch3”" in card
    assert "world/" not in card


def test_hover_shows_a_wait_and_the_stack(show):
    """What, for what, how long, until when, and where the rank stood; away from it the card is gone."""
    page = show(failed_barrier())
    card = page.hover(page.all("#lanes rect.wait.never")[0]).splitlines()
    said = dict(zip(card[1::2], card[2::2], strict=False))
    assert card[0] == "rank 0 waits"
    assert (said["missing"], said["timeout"], said["when"]) == ("“epoch1/last”", "300 s", "21.000 ms")
    assert said["how long"] == "9 ms up to the last event; it never ended"
    assert card[-3:] == ["rank 0 stood here at the end", "test_it x/t.py:12", "train x/t.py:41"]
    assert page.hover(page.one("h1")) == ""
    assert not page.one("#card").is_displayed()


def test_hover_tells_what_a_mark_is(show):
    """Each kind has a card of its own."""
    page = show(failed_barrier())
    for selector, words in {
        "rect.wait.done": ["rank 0 waited", "released by", "rank 1: set at 9.100 ms"],
        "path.exit": ["rank 1 ended: killed by SIGKILL", "-9", "4001"],
        "circle.absent": ["rank 1 never joined barrier “epoch1”", "0, 2 (2 of 3)"],
        "path.join.complete": ["joined barrier “epoch0”", "0–2 (3 of 3)", "nobody"],
    }.items():
        card = page.hover(page.all(f"#lanes {selector}")[0])
        assert [word for word in words if word not in card] == []


def test_a_wait_names_those_who_may_end_it(show):
    """Where the caller has said so; and a call that changed nothing says that."""
    wait = WaitBegan(2.0, 0, 0, "wait", ("a", "b"), ("a",), 9.0, writers=(2, 1))
    page = show(
        RunHistory(
            "t",
            3,
            [StoreCalled(1.0, 1, 1, "compare_set", ("a",), False), wait, LineWritten(9.0, 1, "stdout", "")],
        )
    )
    assert "ranks 1–2 alone" in page.hover(page.one("#lanes rect.wait.never"))
    assert "it changed nothing" in page.hover(page.one("#lanes path.calls"))


def test_barriers_are_linked(show):
    """One line through those that came, one through those that did not."""
    page = show(failed_barrier())
    assert (len(page.all("#lanes .link.complete")), len(page.all("#lanes .link.incomplete"))) == (1, 1)
    assert len(page.all("[data-lane='1'] circle.absent")) == len(page.all("#lanes circle.absent")) == 1


def test_the_wheel_zooms_and_a_button_shows_all(show):
    """The times on the axis are others, then as they were."""
    page = show(failed_barrier())
    before = page.texts("#axis .tick-name")
    zoom_in(page, 0.5)
    assert page.texts("#axis .tick-name") != before
    page.one("#all").click()
    page.until(lambda: not page.zoomed())
    assert page.texts("#axis .tick-name") == before


def test_drag_zooms_into_a_span(show):
    """What lies in it is wider than it was."""
    page = show(failed_barrier())
    left, _, right, _ = page.boxes("[data-lane='0'] rect.wait.done")[0]
    bar = page.one("[data-lane='0'] rect.wait.done")
    width = right - left
    page.mouse().move_to_element_with_offset(bar, round(-width), 0).click_and_hold().move_by_offset(
        round(2 * width), 0
    ).release().perform()
    page.until(page.zoomed)
    left, _, right, _ = page.boxes("[data-lane='0'] rect.wait.done")[0]
    assert right - left > 1.5 * width


def test_what_lies_beyond_the_view_is_not_drawn_at_its_edge(show):
    """A failed phase has its end in red where it ends, and only there."""
    page = show(failed_barrier())
    assert len(page.all("[data-lane='1'] rect.failure")) == 1
    zoom_in(page, 0.3)
    assert page.all("[data-lane='1'] rect.failure") == []


def test_keys_walk_from_mark_to_mark(show):
    """A lane that gets the focus shows its first mark; arrows go on, and to other lanes; Escape ends it.

    Drawing anew keeps the focus, and shows no card by itself.
    """
    page = show(failed_barrier())
    page.one("#all").send_keys(Keys.TAB)
    assert page.driver.switch_to.active_element.get_attribute("data-lane") == "0"
    titles = [page.one("#card h3").text]
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN):
        page.driver.switch_to.active_element.send_keys(key)
        titles.append(page.one("#card h3").text)
    assert titles == ["rank 0 call", "rank 0 wrote to stdout", "rank 0 called set", "rank 1 call: failed"]
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE, "+")
    page.until(page.zoomed)
    assert page.driver.switch_to.active_element.get_attribute("data-lane") == "1"
    assert not page.one("#card").is_displayed()


def test_a_click_keeps_the_card(show):
    """So that its text can be taken; a second click lets it go."""
    page = show(failed_barrier())
    page.mouse().move_to_element(page.one("#lanes path.exit")).click().perform()
    for other in ("h1", "[data-lane='2'] rect.wait.done"):
        assert page.hover(page.one(other)).startswith("rank 1 ended: killed by SIGKILL")
    page.mouse().move_to_element(page.one("#lanes path.exit")).click().perform()
    assert not page.one("#card").is_displayed()


def test_the_log_is_a_list_and_has_a_filter(show):
    """By text, or by rank."""
    page = show(failed_barrier())
    assert page.texts("#lines .what") == [
        *(f"hello from rank {rank}" for rank in range(3)),
        "ValueError: boom",
    ]
    for word, lines in {"BOOM": ["ValueError: boom"], "rank 2": ["hello from rank 2"]}.items():
        page.one("#filter").clear()
        page.one("#filter").send_keys(word)
        page.until(lambda lines=lines: page.texts("#lines .what") == lines)


def test_ranks_can_be_chosen(show):
    """Lanes and lines of the others are hidden; what is no choice is said to be none."""
    page = show(plain_failure())
    script = "return [...document.querySelectorAll('g.lane')].map((one) => one.dataset.lane)"
    for wanted, lanes in {"0, 2": ["0", "2"], "ranks 1-2": ["1", "2"], "": ["1", "0", "2"]}.items():
        page.one("#ranks").clear()
        page.one("#ranks").send_keys(wanted, Keys.END, Keys.SPACE)
        page.until(lambda lanes=lanes: page.driver.execute_script(script) == lanes)
        assert sorted(page.texts("#lines .who")) == sorted(f"rank {lane}" for lane in lanes)
        assert page.one("#ranks").get_attribute("aria-invalid") == "false"
    page.one("#ranks").send_keys("x")
    page.until(lambda: page.one("#ranks").get_attribute("aria-invalid") == "true")
    assert len(page.all("g.lane")) == 3


def test_what_is_found_is_marked_and_shown(show):
    """Keys, lines and names, on all ranks; Enter goes from one to the next, also beyond the view."""
    page = show(plain_failure())
    page.one("#find").send_keys("shard/")
    page.until(lambda: page.one("#found").text == "3 found")
    page.until(lambda: len(page.all("#lanes path.found")) == 3)
    zoom_in(page, 0.9)
    shown = []
    for _ in range(2):
        page.one("#find").send_keys(Keys.ENTER)
        shown.append(page.one("#card h3").text)
    assert shown == ["rank 0 called set", "rank 1 called set"]
    assert page.one("#found").text == "2 of 3"


def test_a_key_zooms_to_what_is_chosen(show):
    """What was chosen has half of the view then."""
    page = show(failed_barrier())
    page.mouse().move_to_element(page.all("#lanes rect.wait.never")[0]).click().perform()
    page.mouse().send_keys("z").perform()
    page.until(page.zoomed)
    left, _, right, _ = page.boxes("#lanes rect.wait.never")[0]
    plot = float(page.one("#plot rect").get_attribute("width"))
    assert right - left == pytest.approx(plot / 2, rel=0.2)


def test_what_a_rank_wrote_is_text(show):
    """Markup and scripts in lines and keys are shown, and do nothing."""
    hostile = "</script><img src=x onerror=document.title='owned'>\u2028\x00"
    page = show(
        RunHistory(
            hostile, 1, [StoreCalled(1.0, 0, 0, "set", (hostile,)), LineWritten(2.0, 0, "stdout", hostile)]
        )
    )
    assert page.texts("#lines .what") == [hostile]
    assert page.driver.title != "owned"
    assert page.all("img") == []


def test_quiet_time_is_drawn_short(show):
    """300 s in which nothing happens are named on the axis and narrow; a button draws them as they were."""
    events = [StoreCalled(at, 0, 0, "set", ("a",)) for at in (0.0, 0.001, 0.002, 0.003)]
    page = show(RunHistory("t", 1, [*events, LineWritten(300.003, 0, "stdout", "end")]))
    assert page.texts("#axis .fold-name") == ["⋯ 300 s ⋯"]
    ((left, _, right, _),) = page.boxes("#lanes rect.fold")
    assert right - left < 100
    page.one("#fold").click()
    page.until(lambda: page.texts("#axis .fold-name") == [])
    assert "100 s" in page.texts("#axis .tick-name")


def test_many_calls_are_drawn_and_told_as_one(show):
    """32,000 of them: pixels of one canvas, a card that counts; those that are found have a frame."""
    events = [StoreCalled(i * 1e-6, i % 32, i % 32, "set", (f"k{i}",)) for i in range(32_000)]
    page = show(RunHistory("t", 32, events))
    drawn = page.pixels()
    assert all(drawn)
    assert page.all("#lanes path.calls") == []
    first = page.one("[data-lane='0'] .edge")
    page.mouse().move_to_element_with_offset(first, 0, -6).perform()
    card = page.one("#card").text
    assert card.startswith("rank 0 ")
    assert "store calls" in card.splitlines()[0]
    assert "zoom in to tell them apart" in card
    page.one("#find").send_keys("k64")
    page.until(lambda: page.one("#found").text == "111 found")
    page.until(lambda: page.pixels()[0] > drawn[0])


def test_a_closer_look_at_many_calls_is_of_single_ones(show):
    """Then they are elements again, and the canvas is gone."""
    events = [StoreCalled(i * 1e-3, 0, 0, "set", (f"k{i}",)) for i in range(3000)]
    page = show(RunHistory("t", 1, events))
    assert page.one("#dense").is_displayed()
    for _ in range(4):
        page.one("#closer").click()
    page.until(lambda: not page.one("#dense").is_displayed())
    assert len(page.all("#lanes path.calls")) == 1


def many_events(nprocs=64, rounds=112):
    """Some 100,000, of all kinds that a trainer has many of."""
    events = [PhaseBegan(0.0, rank, "call") for rank in range(nprocs)]
    for number in range(rounds):
        at = number * 0.06
        for rank in range(nprocs):
            own = at + rank * 1e-4
            events += [
                StoreCalled(own + i * 0.007, rank, rank, "set", (f"shard/{rank}/{number}/{i}",))
                for i in range(8)
            ]
            events += [
                LineWritten(own + i * 0.015, rank, "stdout", f"epoch {number} step {i}") for i in range(3)
            ]
            key = (f"grad/{number}",)
            events += [
                WaitBegan(own, rank, rank, "wait", key, key, 300.0),
                WaitEnded(own + 0.01, rank, rank, "done"),
            ]
            events.append(
                BarrierJoined(at + 0.058 + rank * 1e-5, rank, rank, f"epoch{number}", nprocs, rank + 1)
            )
    return RunHistory("t", nprocs, sorted(events, key=lambda one: one.at))


FLUID = """
    const [act, done] = arguments, drawn = () => new Promise((next) => requestAnimationFrame(() => setTimeout(next, 0)));
    const text = document.getElementById("data").textContent, find = document.getElementById("find");
    const search = (word) => {
        find.value = word;
        find.dispatchEvent(new Event("input"));
    };
    const acts = {
        read: [() => JSON.parse(text)],
        zoom: [() => document.getElementById("closer").click(), () => document.getElementById("all").click()],
        search: [() => search("epoch"), () => search("shard/7/")],
    };
    (async () => {
        for (let round = 0; round < 8; round++) {
            acts[act][round % acts[act].length]();
            await drawn();
        }
        done();
    })();
"""


def test_many_events_of_many_ranks_are_fluid(show):
    """To change the view, or to search, takes the browser less than twice the time that it takes to read the data."""
    page = show(many_events())
    page.driver.set_script_timeout(120)
    # Its own time of the processor: other work of the machine does not count.
    page.driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

    def spent(act):
        def tasks():
            metrics = page.driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
            return next(one["value"] for one in metrics if one["name"] == "TaskDuration")

        before = tasks()
        page.driver.execute_async_script(FLUID, act)
        return tasks() - before

    spent("search")  # The first search ends the index.
    reading = spent("read")
    looks = {act: round(spent(act) / reading, 2) for act in ("zoom", "search")}
    page.driver.execute_cdp_cmd("Performance.disable", {})
    assert {act: one for act, one in looks.items() if one > 2} == {}


def test_many_barriers_are_a_few_drawings(show):
    """A browser bears a path of a thousand marks, and not a thousand elements; each mark still has its card."""
    waiting = list(range(7))
    events = [one for at in range(200) for one in meeting(f"epoch{at}", at / 100, waiting, 7, 8)]
    page = show(RunHistory("t", 8, events))
    script = "return document.querySelectorAll(arguments[0]).length"
    drawn = {
        part: page.driver.execute_script(script, part) for part in ("#lanes .wait, #lanes .join", "#lanes *")
    }
    assert drawn["#lanes .wait, #lanes .join"] < 8 * 4
    assert drawn["#lanes *"] < 500
    page.one("#all").send_keys(Keys.TAB)
    titles = {page.one("#card h3").text}
    for _ in range(4):
        page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
        titles.add(page.one("#card h3").text)
    assert titles >= {"rank 0 joined barrier “epoch0”", "rank 0 waited", "rank 0 joined barrier “epoch1”"}


def test_what_is_left_out_is_said(show):
    """On the page, in words."""
    lines = [LineWritten(float(i), 0, "stdout", "x" * 2000) for i in range(2000)]
    page = show(RunHistory("t", 1, lines))
    assert "of 2,000 log lines are not on this page" in page.one("#left-out").text


def overlaps(boxes):
    return [
        (one, other)
        for number, one in enumerate(boxes)
        for other in boxes[:number]
        if one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
    ]


@pytest.mark.parametrize("nprocs", [2, 64])
def test_texts_do_not_hide_each_other(show, nprocs):
    """Names, states and ticks are apart, and stay in their columns."""
    long = [WaitBegan(100.05, 0, 0, "wait", ("k" * 150,), ("k" * 150,), 1.0), PhaseBegan(100.06, 0, "x" * 80)]
    history = failed_barrier(nprocs)
    page = show(
        RunHistory(history.title, nprocs, [*history.events, *long], history.stacks, history.diagnosis)
    )
    names = page.boxes("#lanes text.name") + page.boxes("#lanes text.state")
    assert len(names) == 2 * nprocs
    assert overlaps(names) == []
    plot = float(page.one("#plot rect").get_attribute("x"))
    assert max(right for _, _, right, _ in names) <= page.boxes("#lanes")[0][0] + plot
    assert overlaps(page.boxes("#axis text")) == []


def test_the_system_says_whether_it_is_dark(show):
    """Paper and ink change places, but not on paper."""
    page = show(failed_barrier())
    script = "return getComputedStyle(document.body)[arguments[0]].match(/\\d+/g).map(Number)"
    found = {}
    for scheme, media in (("light", ""), ("dark", ""), ("dark", "print")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        paper, ink = (sum(page.driver.execute_script(script, name)) for name in ("backgroundColor", "color"))
        found[scheme, media] = paper < ink
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    assert found == {("light", ""): False, ("dark", ""): True, ("dark", "print"): False}


def test_a_run_in_which_nothing_happened(show):
    """Lanes, and no error."""
    page = show(RunHistory("t", 2, []))
    assert [lane.accessible_name for lane in page.all("[role=listitem][data-lane]")] == [
        "rank 0: nothing is known",
        "rank 1: nothing is known",
    ]
