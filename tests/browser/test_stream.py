"""The stream under a visitor's hands: begin, pause, scrub, end, by buttons and by keys."""

import numpy as np


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def test_enter_begins_and_ends_and_space_pauses(visitor) -> None:
    visitor.key("Enter")
    visitor.wait_for_state("Streaming")
    visitor.wait_for_frame(12)
    visitor.key(" ")
    visitor.wait_for_state("Paused")
    held, frame = visitor.picture(), visitor.frame
    visitor.page.wait_for_timeout(500)
    assert visitor.frame == frame and np.array_equal(visitor.picture(), held)
    visitor.page.click("#pause")
    visitor.wait_for_state("Streaming")
    visitor.wait_for_frame(frame + 12)
    visitor.key("Enter")
    visitor.wait_for_state("Ready")
    assert visitor.page.is_disabled("#pause")
    visitor.page.wait_for_selector("#past:visible")
    assert not visitor.page.is_visible("#hint"), "which has the same place"
    visitor.key("r")
    visitor.page.wait_for_selector("#hint:visible")


def test_looking_back_shows_what_was_shown(visitor) -> None:
    first = visitor.picture()
    visitor.key("Enter")
    visitor.wait_for_frame(30)
    visitor.look_at(0)
    visitor.wait("document.getElementById('clock').textContent === '0:00.0'")
    assert difference(visitor.picture(), first) < 12, "frame 0 is the picture"
    visitor.key(".")
    visitor.wait("document.getElementById('timeline').value === '1'")
    visitor.page.click("#pause")
    visitor.wait_for_frame(31)


def test_a_stream_has_the_seed_that_was_given(visitor) -> None:
    visitor.page.fill("#seed", "4711")
    visitor.key("Escape")
    visitor.page.click("#start")
    visitor.wait("document.getElementById('seed-note').textContent === 'seed 4711'")
    visitor.page.fill("#seed", "9999999999")
    assert visitor.page.input_value("#seed") == "2147483647", "the largest there is, and the one that is used"


def test_a_prompt_is_changed_while_it_plays(visitor) -> None:
    visitor.page.click("#start")
    visitor.wait_for_frame(1)
    visitor.page.fill("#prompt", "a cat that looks to the left")
    visitor.page.press("#prompt", "Enter")
    visitor.wait("document.getElementById('prompt-note').textContent.startsWith('from frame')")


def test_what_the_machine_does_is_plotted(visitor) -> None:
    visitor.stroke((60, 60), (70, 60))
    for plot in ("rate", "step", "delay", "queue"):
        visitor.wait(f"/[1-9]/.test(document.getElementById('plot-{plot}').textContent)")


def test_tools_have_keys_and_the_help_lists_them(visitor) -> None:
    for key, tool in (("p", "pin"), ("e", "erase"), ("d", "press")):
        visitor.key(key)
        visitor.wait(f"document.querySelector('[role=radio][aria-checked=true]').dataset.tool === '{tool}'")
        assert visitor.page.get_attribute(f"[role=radio][data-tool={tool}]", "title").endswith(f"({key.upper()})")
    visitor.key("?")
    text = visitor.page.locator("dialog[open]").inner_text()
    assert "Pause or go on" in text and "Space" in text
    visitor.key("Enter")  # closes it, and does not begin a stream
    visitor.page.wait_for_selector("dialog[open]", state="detached")
    assert visitor.page.inner_text("#state") == "Ready"


def test_a_clicked_button_leaves_the_space_bar_to_the_stream(visitor) -> None:
    visitor.page.click("#start")
    visitor.wait_for_frame(1)
    visitor.page.click("#points")
    visitor.key(" ")
    visitor.wait_for_state("Paused")
    assert visitor.page.get_attribute("#points", "aria-pressed") == "false"


def test_the_number_of_steps_is_changed_while_it_plays(visitor) -> None:
    visitor.page.click("#start")
    visitor.wait("document.querySelector('input[name=steps]:checked') !== null")  # the model's own
    visitor.wait_for_frame(1)
    visitor.page.click("#steps label:nth-child(1)")
    visitor.wait_for_frame(visitor.frame + 24)
    assert visitor.page.is_checked("input[name=steps][value='1']")
    assert visitor.page.locator(".toast").count() == 0


def test_no_stream_is_said_to_run_before_its_first_frame(visitor) -> None:
    words = visitor.page.evaluate(
        "() => { document.getElementById('start').click(); return document.getElementById('state').textContent; }"
    )
    assert words == "Starting…"
    visitor.wait_for_state("Streaming")
