"""One push: what it has done so far, and what it must look at again in the end."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from captioner.annotations import ClassNames
from captioner.images import Limits
from pipelines.labelstudio import config
from pipelines.labelstudio.attention import AttentionPictures
from pipelines.labelstudio.client import Client, LabelStudioError, LabelStudioSettings
from pipelines.labelstudio.images import Images
from pipelines.labelstudio.items import ReviewItem, Wanted, by_image
from pipelines.labelstudio.ledger import Ledger, LedgerFile
from pipelines.labelstudio.making import PREDICTIONS_AT_ONCE, TASKS_AT_ONCE, Key, Maker
from pipelines.labelstudio.project import Project, show_predictions
from pipelines.labelstudio.reconcile import Repeats, catch_up, remove_repeats, verify
from pipelines.labelstudio.tasks import Tasks
from pipelines.storage import StorageError
from schemas.uris import redact

SAVED_AFTER = 20
"""Batches after which the ledger is written."""
MOST_REFUSED = 100
"""What is refused costs a dozen requests each, until it is known which of many it is."""
_NAMED = 5


class Pusher:
    """Brings captions into a project.

    Attributes:
        items: how many were gone through.
        tasks_created: images that had no task.
        predictions_created: captions that were not there.
        predictions_found: captions that were.
        failed: for each image id that is left out its uri, and why.
        notes: what else there is to say.
    """

    def __init__(
        self,
        client: Client,
        project: Project,
        settings: LabelStudioSettings,
        classes: ClassNames,
        file: LedgerFile | None,
        limits: Limits,
        attention: AttentionPictures | None = None,
    ) -> None:
        """See what is there.

        Args:
            client: a connection to Label Studio.
            project: the project.
            settings: its title, and whether previews are wanted.
            classes: of labels, boxes and masks that are to be reviewed, too.
            file: where it is remembered what is there; None for nowhere.
            limits: what an image may cost that is read for its preview.
            attention: makes pictures of where the model looked; None where none are shown.
        """
        self.items = self.tasks_created = self.predictions_created = self.predictions_found = 0
        self.failed: dict[str, tuple[str, str]] = {}
        self.notes: list[str] = []
        self._client, self._project, self._title = client, project, settings.project
        self._classes, self._file = classes, file
        self._ledger, distrusted = file.load() if file else (Ledger(), None)
        self.notes += [distrusted] if distrusted else []
        self._tasks = Tasks(client, project.id)
        self._attention = attention
        images = Images(client, project.id, settings.previews, limits)
        self._maker = Maker(client, project, self._ledger, classes, images, attention)
        self._found, self._made = set[int](), set[int]()
        self._versions: dict[str, None] = {}  # in order; reviewers are shown the last one
        self._lacking: dict[Key, ReviewItem] = {}
        self._batches, self._sent, self._shown, self._forgets = 0, False, "", ""
        self._removed = Counter[str]()
        catch_up(self._ledger, self._tasks)
        verify(self._ledger, self._tasks)
        self._remove_repeats()

    @property
    def tasks_found(self) -> int:
        """Images that had a task already."""
        return len(self._found)

    def go_through(
        self, items: Iterable[ReviewItem], on_progress: Callable[[int], None] | None
    ) -> bool:
        """Send what is missing, and look at it again; say whether all was there then.

        Args:
            items: the captions.
            on_progress: called after each batch, the first time, with the number of items.
        """
        first, lost, self._sent = not self.items, self._ledger.lost, False
        for batch in _batches(items):
            self._push(batch, first)
            if first:
                self.items += len(batch)
                if on_progress is not None:
                    on_progress(self.items)
        self._add_predictions()
        if not self._sent:
            return True
        catch_up(self._ledger, self._tasks)
        for version in (None, *self._versions):
            verify(self._ledger, self._tasks, version)
        self._remove_repeats()
        return self._ledger.lost == lost

    def finish(self) -> None:
        """Remember what is there, make sure that reviewers see it, and say what is odd."""
        self._save()
        self._show()
        self._check_config()
        self.notes += [self._forgets] if self._forgets else []
        self.notes += _notes(self._removed, self._kept)
        self.notes += self._attention.notes() if self._attention else ()

    def _push(self, batch: Sequence[ReviewItem], first: bool) -> None:
        wanted = by_image(item for item in batch if item.image_id not in self.failed)
        self._verify(version for of_image in wanted.values() for version in of_image)
        there = {i: tasks for i in wanted if (tasks := self._ledger.of(i))}
        for image_id, tasks in there.items():
            has = frozenset[str]().union(*(task.versions for task in tasks))
            for version, item in wanted[image_id].items():
                if version not in has:
                    self._lacking[image_id, version] = item
                elif first:
                    self.predictions_found += 1
            if first and tasks[0].id not in self._made:
                self._found.add(tasks[0].id)
        self._make_tasks({i: of_image for i, of_image in wanted.items() if i not in there})
        if len(self._lacking) >= PREDICTIONS_AT_ONCE:
            self._add_predictions()
        self._batches += 1
        if self._sent and self._batches % SAVED_AFTER == 0:
            catch_up(self._ledger, self._tasks)
            self._save()

    def _verify(self, versions: Iterable[str]) -> None:
        """Look at the predictions of model versions that were not met before."""
        for version in dict.fromkeys(versions):
            if version not in self._versions:
                verify(self._ledger, self._tasks, version)
            self._versions.pop(version, None)
            self._versions[version] = None

    def _make_tasks(self, missing: Wanted) -> None:
        if not missing:
            return
        left_out = self._maker.make_tasks(missing)
        uris = {i: next(iter(missing[i].values())).uri for i in left_out}
        self._leave_out({i: (uris[i], why) for i, why in left_out.items()})
        made = missing.keys() - left_out.keys()
        self._made.update(task.id for image_id in made for task in self._ledger.of(image_id))
        self.tasks_created += len(made)
        self.predictions_created += sum(len(missing[image_id]) for image_id in made)
        self._sent = True
        if made and not self._shown:
            with suppress(LabelStudioError):  # Reviewers may have begun; done again in the end.
                self._show()

    def _add_predictions(self) -> None:
        if not self._lacking:
            return
        lacking, self._lacking = self._lacking, {}
        left_out = self._maker.add_predictions(lacking)
        uris = {image_id: item.uri for (image_id, _), item in lacking.items()}
        self._leave_out({i: (uris[i], why) for i, why in left_out.items()})
        self.predictions_created += sum(
            any(version in task.versions for task in self._ledger.of(image_id))
            for image_id, version in lacking
        )
        self._sent = True

    def _leave_out(self, failed: dict[str, tuple[str, str]]) -> None:
        self.failed |= failed
        if failed and self._maker.refused:
            self._check_config()
        if self._maker.refused > MOST_REFUSED:
            _, why = next(reversed(failed.values()))
            raise LabelStudioError(
                f"Label Studio has refused {self._maker.refused} images, the last one since: {why}"
            )

    def _remove_repeats(self) -> None:
        found = remove_repeats(self._ledger, self._tasks)
        self._removed.update(tasks=found.tasks, predictions=found.predictions)
        self._kept = found

    def _show(self) -> None:
        """Fill in for reviewers the captions of the model that came last."""
        version = next(reversed(self._versions), "")
        if version != self._shown and any(version in task.versions for task in self._ledger):
            show_predictions(self._client, self._project, version)
            self._shown = version

    def _save(self) -> None:
        if self._file is not None:
            try:
                self._file.save(self._ledger)
            except StorageError as error:
                self._forgets = f"{redact(str(error))}; the next push looks at all tasks"

    def _check_config(self) -> None:
        """Make sure that the project still has the controls: without one, nobody sees a caption.

        Raises:
            LabelStudioError: if it has not.
        """
        found = self._client.get(f"/api/projects/{self._project.id}")
        if different := config.differences(str(found["label_config"]), self._classes):
            raise LabelStudioError(
                f"the labelling config of project {self._title!r} (number {self._project.id}) was "
                f"changed while captions were pushed: {'; '.join(different)}. Put that back, then "
                "push again"
            )


def _batches(items: Iterable[ReviewItem]) -> Iterator[list[ReviewItem]]:
    rest = iter(items)
    while batch := list(islice(rest, TASKS_AT_ONCE)):
        yield batch


def _notes(removed: Counter[str], kept: Repeats) -> Iterator[str]:
    """Say what was there twice."""
    if removed.total():
        told = " and ".join(f"{count:,} {what}" for what, count in removed.items() if count)
        yield f"{told} were there twice, and were removed"
    for numbers in kept.several[:_NAMED]:
        told = ", ".join(map(str, numbers))
        yield f"tasks {told} are of one image, and stay: somebody has worked on each of them"
    for number in kept.twice[:_NAMED]:
        yield f"task {number} has a prediction twice, which stays: somebody has worked on it"
    more = len(kept.several[_NAMED:]) + len(kept.twice[_NAMED:])
    if more:
        yield f"{more:,} more stay twice, likewise"
