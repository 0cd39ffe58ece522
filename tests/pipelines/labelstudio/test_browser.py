"""The queue as a reviewer has it: a browser shows image and caption, and takes a verdict."""

import io
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_studio_sdk.converter.brush import decode_rle
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from captioner.annotations import Annotations, Box, ClassNames, Label
from pipelines.labelstudio.push import push
from tests.pipelines.labelstudio.conftest import Queue, make_item, make_item_of
from tests.pipelines.labelstudio.test_regions import mask_of

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)
COLOUR = (20, 140, 220)
WAIT_SECONDS = 60


def find_programs() -> tuple[str, str]:
    """Find Chromium and its driver on this machine; skip, or fail where one is required."""
    browser = os.environ.get("CAPTIONER_CHROMIUM") or next(
        filter(None, map(shutil.which, CHROMIUMS)), None
    )
    driver = os.environ.get("CAPTIONER_CHROMEDRIVER") or shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    reason = (
        f"no {'chromedriver' if browser else 'Chromium'} on this machine; install Debian's "
        "chromium and chromium-driver, or set CAPTIONER_CHROMIUM and CAPTIONER_CHROMEDRIVER"
    )
    if os.environ.get("CAPTIONER_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


class Reviewer:
    """Somebody with a browser, logged in."""

    def __init__(self, browser: Any, queue: Queue) -> None:
        self.browser = browser
        self.queue = queue

    def log_in(self) -> None:
        self.browser.get(f"{self.queue.server.url}/user/login/")
        self.find("[name=email]").send_keys(self.queue.server.username)
        self.find("[name=password]").send_keys(self.queue.server.password, Keys.ENTER)
        self.wait(lambda: "/login" not in self.browser.current_url)

    def open_queue(self) -> None:
        project = self.queue.project()["id"]
        self.browser.get(f"{self.queue.server.url}/projects/{project}/data?labeling=1")

    def wait(self, condition: Any) -> Any:
        redrawn = (StaleElementReferenceException,)
        waiting = WebDriverWait(self.browser, WAIT_SECONDS, ignored_exceptions=redrawn)
        return waiting.until(lambda _: condition())

    def find(self, selector: str) -> Any:
        def visible() -> Any:
            found = self.browser.find_elements(By.CSS_SELECTOR, selector)
            return next((element for element in found if element.is_displayed()), None)

        return self.wait(visible)

    def caption(self) -> str:
        return str(self.find("[data-testid=textarea-region]").text)

    def share_of(self, colour: tuple[int, int, int]) -> float:
        """Say which share of what the reviewer sees has this colour, more or less."""
        shot = Image.open(io.BytesIO(self.browser.get_screenshot_as_png())).convert("RGB")
        shot.thumbnail((200, 200))
        pixels = list(shot.getdata())
        near = sum(max(abs(a - b) for a, b in zip(p, colour, strict=True)) < 12 for p in pixels)
        return near / len(pixels)


@pytest.fixture
def reviewer(queue: Queue, tmp_path: Path) -> Iterator[Reviewer]:
    """A reviewer who has logged in."""
    browser, driver = find_programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'browser'}"):
        options.add_argument(flag)
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        reviewer = Reviewer(chrome, queue)
        reviewer.log_in()
        yield reviewer
    finally:
        chrome.quit()


def verdict(choice: str) -> dict[str, Any]:
    return {
        "from_name": "verdict",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": [choice]},
    }


def submitted(queue: Queue, image_id: str) -> dict[str, Any]:
    """Return what was said of an image by the name of the control."""
    tasks = {task["data"]["image_id"]: task for task in queue.tasks()}
    annotations = tasks[image_id]["annotations"]
    return {region["from_name"]: region["value"] for a in annotations for region in a["result"]}


def test_no_browser_is_a_failure_where_one_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    for variable in ("CAPTIONER_CHROMIUM", "CAPTIONER_CHROMEDRIVER", "CAPTIONER_REQUIRE_BROWSER"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Chromium on this machine; install Debian"):
        find_programs()
    monkeypatch.setenv("CAPTIONER_CHROMIUM", "/usr/bin/chromium")
    monkeypatch.setenv("CAPTIONER_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="no chromedriver on this machine; install D"):
        find_programs()


def test_a_reviewer_sees_image_and_caption_corrects_it_and_submits(
    reviewer: Reviewer, queue: Queue, tmp_path: Path
) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (900, 700), COLOUR).save(path)
    caption = "a <b>blue</b> field & nothing else"
    item = make_item_of(path, caption=caption)
    push([item], queue.settings)
    reviewer.open_queue()

    reviewer.wait(lambda: reviewer.caption() == caption)
    reviewer.wait(lambda: reviewer.share_of(COLOUR) > 0.1)
    if folder := os.environ.get("CAPTIONER_SCREENSHOTS"):
        reviewer.browser.save_screenshot(f"{folder}/queue.png")

    ActionChains(reviewer.browser).move_to_element(
        reviewer.find("[data-testid=textarea-region]")
    ).perform()
    reviewer.find("[data-testid=htx-textbox-edit-button]").click()
    field = reviewer.find("[data-testid=textarea-region] textarea")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("a blue square")
    reviewer.find("[data-testid=htx-textbox-save]").click()
    reviewer.wait(lambda: reviewer.caption() == "a blue square")
    ActionChains(reviewer.browser).send_keys("2").perform()
    reviewer.find("[data-testid=bottombar-submit-button]").click()

    reviewer.wait(lambda: submitted(queue, item.image_id))
    assert submitted(queue, item.image_id) == {
        "caption": {"text": ["a blue square"]},
        "verdict": {"choices": ["fix"]},
    }


def test_boxes_and_masks_lie_where_the_objects_are(
    reviewer: Reviewer, queue: Queue, tmp_path: Path
) -> None:
    """On a preview, which is smaller than the original: what is drawn covers what it is of."""
    square, blot = (100, 200, 400, 500), (700, 100, 1000, 400)
    image = Image.new("RGB", (1200, 600), "white")
    image.paste((250, 250, 210), square)
    image.paste((210, 250, 250), blot)
    path = tmp_path / "image.png"
    image.save(path)
    pixels = np.zeros((600, 1200), np.uint8)
    pixels[blot[1] : blot[3], blot[0] : blot[2]] = 1
    found = Annotations(
        labels=(Label("square"),),
        boxes=(Box("square", square[0], square[1], 300, 300, 0.9),),
        masks=(mask_of(pixels, "blot"),),
    )
    item = make_item_of(path, caption="a square", annotations=found, width=1200, height=600)
    push([item], queue.settings, classes=ClassNames(("square", "blot"), ("square",), ("blot",)))
    reviewer.open_queue()
    reviewer.wait(lambda: reviewer.caption() == "a square")
    reviewer.wait(lambda: reviewer.find(".konvajs-content canvas"))
    if folder := os.environ.get("CAPTIONER_SCREENSHOTS"):
        time.sleep(2)
        reviewer.browser.save_screenshot(f"{folder}/annotations.png")
    ActionChains(reviewer.browser).send_keys("1").perform()
    reviewer.find("[data-testid=bottombar-submit-button]").click()
    reviewer.wait(lambda: submitted(queue, item.image_id))
    said = submitted(queue, item.image_id)
    assert said["labels"] == {"choices": ["square"]}
    assert said["boxes"]["rectanglelabels"] == ["square"]
    sides = [said["boxes"][name] for name in ("x", "y", "width", "height")]
    assert sides == pytest.approx([100 / 12, 100 / 3, 25, 50], abs=0.5)
    alpha = decode_rle(said["masks"]["rle"]).reshape(256, 512, 4)[..., 3]
    rows, columns = np.nonzero(alpha > 128)
    ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert ends == pytest.approx([edge * 512 / 1200 for edge in blot], abs=3)


def test_the_caption_is_filled_in_where_only_an_older_model_has_one(
    reviewer: Reviewer, queue: Queue
) -> None:
    push([make_item(1, caption="of the older model")], queue.settings)
    push([make_item(2, model_id="model-2")], queue.settings)
    newer = next(t for t in queue.tasks() if t["data"]["image_id"] == make_item(2).image_id)
    queue.post(f"/api/tasks/{newer['id']}/annotations/", {"result": [verdict("accept")]})
    reviewer.open_queue()

    field = reviewer.find("[data-testid=textarea-control] textarea")
    reviewer.wait(lambda: field.get_attribute("value") == "of the older model")
    ActionChains(reviewer.browser).send_keys("1").perform()
    reviewer.find("[data-testid=bottombar-submit-button]").click()

    reviewer.wait(lambda: submitted(queue, make_item(1).image_id))
    assert submitted(queue, make_item(1).image_id) == {
        "caption": {"text": ["of the older model"]},
        "verdict": {"choices": ["accept"]},
    }


def test_a_caption_of_any_characters_is_shown_as_text(reviewer: Reviewer, queue: Queue) -> None:
    odd = "a <script>document.title = 'run'</script> <b>bold</b> &amp; 🐕 漢字 \0 end "
    caption = odd + " ".join(["word"] * 2_000)
    assert len(caption) > 10_000
    push([make_item(1, caption=caption)], queue.settings)
    reviewer.open_queue()
    reviewer.wait(lambda: reviewer.caption() == caption.replace("\0", "\\0"))
    assert reviewer.browser.title != "run"
