"""Two captions of an image side by side, and which is better: a project of its own.

Nothing in a task tells which model wrote which caption: whose is the first stands in the output.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any
from xml.etree import ElementTree

from captioner.images import Limits
from pipelines.labelstudio import config
from pipelines.labelstudio.annotations import Annotations
from pipelines.labelstudio.client import Client
from pipelines.labelstudio.images import BY_DEFAULT, Images, Picture
from pipelines.labelstudio.project import OtherConfigError, create_project, find_project
from pipelines.labelstudio.review_rows import reviewer_of
from pipelines.labelstudio.sending import send
from pipelines.labelstudio.tasks import Tasks

FIRST, SECOND, BOTH_RIGHT, BOTH_WRONG = CHOICES = ("first", "second", "both right", "both wrong")
BETTER = "better"
BATCH = 250
TITLE = ": which is better"
MOST_LETTERS = 50

LABEL_CONFIG = """\
<View style="display: flex; gap: 24px; align-items: flex-start">
  <View style="flex: 3; min-width: 0">
    <Image name="image" value="$image" zoom="true" zoomControl="true" rotateControl="false"/>
  </View>
  <View style="flex: 2; min-width: 260px">
    <Header value="First" size="5"/>
    <Text name="first" value="$first"/>
    <Header value="Second" size="5"/>
    <Text name="second" value="$second"/>
    <Header value="Which caption is better?" size="5"/>
    <Choices name="better" toName="image" choice="single-radio" required="true"
             requiredMessage="Say which is better, or skip the image">
      <Choice value="first" hotkey="1" hint="The first is right, the second is not, or less so"/>
      <Choice value="second" hotkey="2" hint="The second is right, the first is not, or less so"/>
      <Choice value="both right" hotkey="3" hint="Both are right, and neither is better"/>
      <Choice value="both wrong" hotkey="4" hint="Both are wrong, and neither is better"/>
    </Choices>
  </View>
</View>
"""
INSTRUCTION = (
    "Look at the image and read both captions. Say which of them is better: <b>first</b> or "
    "<b>second</b>. If neither is, say whether <b>both</b> are <b>right</b> or <b>wrong</b>. "
    "Which of two models wrote which caption is another one each time."
)
SETTINGS = {
    "expert_instruction": INSTRUCTION,
    "description": "Captions of two models to compare. Made by captioner; tasks are keyed by "
    "image_id, with a hash of the two models behind it.",
    "show_collab_predictions": False,
    "sampling": "Sequential sampling",  # tasks are made in an order drawn at random
    "maximum_annotations": 1,
    "enable_empty_annotation": False,
}


@dataclass(frozen=True)
class Comparison:
    """Two captions of an image, in the order in which they are shown."""

    image_id: str
    uri: str
    first: str
    second: str


@dataclass(frozen=True)
class Answer:
    """What somebody said: one of ``CHOICES``, when, and on which task."""

    choice: str
    reviewer: str | None
    answered_at: datetime
    task_id: int


@dataclass(frozen=True)
class Answers:
    """What a project holds of two models.

    Attributes:
        tasks: number of the task of each image that has one.
        said: answers by image, oldest first; none of what was skipped.
        unread: annotations in which there is no answer.
        failing: numbers of tasks that the server fails at: what is said there is not known.
    """

    tasks: dict[str, int]
    said: dict[str, list[Answer]]
    unread: int = 0
    failing: tuple[int, ...] = ()


def title_of(review_project: str) -> str:
    """Return the title of the project for comparisons, beside one for reviews."""
    return review_project[: MOST_LETTERS - len(TITLE)] + TITLE


class ComparingProject:
    """The project in which two models' captions are compared.

    Attributes:
        id: its number.
        address: where a browser opens it.
    """

    def __init__(
        self, client: Client, title: str, previews: bool = False, limits: Limits = BY_DEFAULT
    ) -> None:
        """Find the project with exactly this title, or make it.

        Args:
            client: a connection to Label Studio.
            title: of the project.
            previews: upload a preview even of what Label Studio could read itself.
            limits: how many pixels an image may have whose preview is made.

        Raises:
            LabelStudioError: if two have the title, or its labelling config is for something else.
        """
        project = find_project(client, title) or _create(client, title)
        if wrong := _differences(str(project.get("label_config") or "")):
            raise OtherConfigError(title, project["id"], wrong)
        self.address = f"{client.url}/projects/{project['id']}/data"
        self._client, self.id = client, int(project["id"])
        self._tasks = Tasks(client, self.id)
        self._images = Images(client, self.id, previews, limits)
        self._read = Annotations(client, self.id)

    def answers(self, pair: str, image_ids: Iterable[str]) -> Answers:
        """Read what people said of two models' captions.

        Args:
            pair: names the two models.
            image_ids: of the images that were compared.
        """
        keys = {_key(image_id, pair): image_id for image_id in image_ids}
        tasks = {keys[key]: number for key, number in self._there().items() if key in keys}
        said: dict[str, list[Answer]] = {}
        unread, names = 0, self._read.reviewers()
        for task in chain(self._read.annotated(None), self._read.uncounted(None)):
            image_id = keys.get(task["data"].get("image_id"))
            for annotation in task["annotations"] if image_id is not None else ():
                answer = _answer(annotation, int(task["id"]), names)
                if answer is not None and image_id is not None:
                    said.setdefault(image_id, []).append(answer)
                unread += answer is None and not annotation["was_cancelled"]
        for answers in said.values():
            answers.sort(key=lambda answer: (answer.answered_at, answer.task_id))
        return Answers(tasks, said, unread, tuple(self._read.failing))

    def ask(
        self, pair: str, comparisons: Sequence[Comparison]
    ) -> tuple[dict[str, int], list[tuple[str, str]]]:
        """Make a task for each of these, in an order that tells nothing; none of them has one yet.

        Args:
            pair: names the two models.
            comparisons: what is to be compared, each image once.

        Returns:
            The number of each image's task, and the images that cannot be shown: uri, and why.

        Raises:
            LabelStudioError: if it did not finish; what was made is found by the next `answers`.
        """
        failed: list[tuple[str, str]] = []
        order = sorted(comparisons, key=lambda one: _shuffled(one.image_id, pair))
        keys = {_key(one.image_id, pair): one.image_id for one in order}
        path = f"/api/projects/{self.id}/import"
        for start in range(0, len(order), BATCH):
            batch = {one.image_id: one for one in order[start : start + BATCH]}
            pictures = [Picture(one.image_id, one.uri) for one in batch.values()]
            addresses, unshown = self._images.addresses(pictures)
            failed += [(picture.uri, why) for picture, why in unshown]
            bodies = {
                _key(i, pair): _task(_key(i, pair), addresses[i], one)
                for i, one in batch.items()
                if i in addresses
            }
            refused = send(self._client, path, bodies, BATCH, lambda *_: None, self._missing)
            failed += [(batch[keys[key]].uri, str(why)) for key, why in refused.items()]
        there = self._there()
        return {keys[key]: number for key, number in there.items() if key in keys}, failed

    def _missing(self, keys: list[str]) -> list[str]:
        there = self._there()
        return [key for key in keys if key not in there]

    def _there(self) -> dict[str, int]:
        """Return the number of each key's task; of repeats those that nobody has touched go."""
        found: dict[str, list[int]] = {}
        for page in self._tasks.read():
            for task in page.tasks:
                found.setdefault(task.image_id, []).append(task.id)
        for key, numbers in found.items():
            if len(numbers) > 1:
                touched = [n for n, (_, work) in self._tasks.worked_on(numbers).items() if work]
                kept = min(touched or numbers)
                self._tasks.remove({n: key for n in numbers if n != kept})
                found[key] = [kept]
        return {key: numbers[0] for key, numbers in found.items()}


def _create(client: Client, title: str) -> dict[str, Any]:
    config.validate(LABEL_CONFIG)
    return create_project(client, {"title": title, "label_config": LABEL_CONFIG, **SETTINGS})


def _differences(label_config: str) -> list[str]:
    """Say what a project lacks for captions to be compared in it; nothing if it can be used."""
    try:
        elements = list(ElementTree.fromstring(label_config).iter())
    except ElementTree.ParseError as error:
        return [f"it is not XML ({error})"]
    values = {element.get("value") for element in elements}
    wrong = [f"nothing shows ${name}" for name in ("image", "first", "second")]
    wrong = [line for line in wrong if line.rpartition(" ")[2] not in values]
    choices = next((one for one in elements if one.get("name") == BETTER), None)
    if choices is None or choices.tag != "Choices":
        return [*wrong, f"there is no Choices named {BETTER!r}"]
    there = {choice.get("value") for choice in choices.iter("Choice")}
    missing = [choice for choice in CHOICES if choice not in there]
    return wrong + ([f"the Choices {BETTER!r} lack {', '.join(missing)}"] if missing else [])


def _key(image_id: str, pair: str) -> str:
    return f"{image_id}-{pair}"


def _shuffled(image_id: str, pair: str) -> bytes:
    return hashlib.sha256(f"order of {_key(image_id, pair)}".encode()).digest()


def _task(key: str, address: str, comparison: Comparison) -> dict[str, Any]:
    data = {"image": address, "image_id": key}
    data |= {"first": comparison.first, "second": comparison.second}
    # The server's database has no place for a zero, nor JSON for what is not UTF-8: `send`.
    return {"data": {name: text.replace("\0", "\\0") for name, text in data.items()}}


def _answer(annotation: Mapping[str, Any], task_id: int, names: Mapping[int, str]) -> Answer | None:
    """Return what an annotation says; None if that is nothing, or it was skipped."""
    if annotation["was_cancelled"]:
        return None
    chosen = [
        choice
        for result in annotation["result"]
        if result.get("from_name") == BETTER
        for choice in result["value"].get("choices", ())
    ]
    if len(chosen) != 1 or chosen[0] not in CHOICES:
        return None
    answered = datetime.fromisoformat(annotation["updated_at"])
    return Answer(chosen[0], reviewer_of(annotation, names), answered, task_id)
