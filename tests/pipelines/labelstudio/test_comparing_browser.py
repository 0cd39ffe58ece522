"""Two captions as a person has them in a browser."""

import hashlib
import os
from pathlib import Path

from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains

from pipelines.labelstudio.client import Client
from pipelines.labelstudio.comparing import ComparingProject
from tests.pipelines.labelstudio import test_browser
from tests.pipelines.labelstudio.conftest import Queue
from tests.pipelines.labelstudio.test_comparing import PAIR, comparison

reviewer = test_browser.reviewer


def test_a_person_sees_both_captions_and_says_which_is_better(
    reviewer: test_browser.Reviewer, queue: Queue, tmp_path: Path
) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (900, 700), test_browser.COLOUR).save(path)
    texts = ("a <b>blue</b> field & nothing else", "a red field")
    key = hashlib.sha256(path.read_bytes()).hexdigest()
    shown = {"image_id": key, "uri": f"file://{path}"}
    asked = comparison(1, **shown, first=texts[0], second=texts[1])
    with Client(queue.settings) as client:
        project = ComparingProject(client, queue.title)
        project.ask(PAIR, [asked])
        reviewer.open_queue()
        reviewer.wait(lambda: all(text in reviewer.find("body").text for text in texts))
        reviewer.wait(lambda: reviewer.share_of(test_browser.COLOUR) > 0.1)
        if folder := os.environ.get("CAPTIONER_SCREENSHOTS"):
            reviewer.browser.save_screenshot(f"{folder}/comparing.png")
        ActionChains(reviewer.browser).send_keys("1").perform()
        reviewer.find("[data-testid=bottombar-submit-button]").click()
        reviewer.wait(lambda: project.answers(PAIR, [asked.image_id]).said)
        (said,) = project.answers(PAIR, [asked.image_id]).said[asked.image_id]
    assert said.choice == "first"
