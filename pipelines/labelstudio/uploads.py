"""Pictures that are uploaded to a project, each once, though an answer may be lost."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.labelstudio.client import Client, LabelStudioError, OutcomeUnknownError

UPLOADS = "/data/"  # how addresses of uploads begin
UPLOAD_FILES = 25
UPLOAD_TRIES = 8


class Uploads:
    """The uploads of a project by name; those of an interrupted push are found again."""

    def __init__(self, client: Client, project_id: int) -> None:
        """Look at nothing yet.

        Args:
            client: a connection to Label Studio.
            project_id: the number of the project.
        """
        self._client = client
        self._project = project_id
        self._known: dict[str, str] | None = None

    def known(self) -> dict[str, str]:
        """Return the address of each upload by name."""
        if self._known is None:
            self._known = self._list(None)
        return self._known

    def add(self, pictures: Mapping[str, bytes]) -> None:
        """Upload pictures, and those again of which nothing is found afterwards.

        Args:
            pictures: JPEGs by name, none of which is known.

        Raises:
            LabelStudioError: if Label Studio does not take them.
        """
        known = self.known()
        error: LabelStudioError | None = None
        for attempt in range(UPLOAD_TRIES):
            rest = [name for name in pictures if name not in known]
            if not rest:
                return
            if attempt:
                self._client.wait(attempt)
            numbers: list[int] = []
            for start in range(0, len(rest), UPLOAD_FILES):
                part = {name: pictures[name] for name in rest[start : start + UPLOAD_FILES]}
                answered, error = self._send(part)
                numbers += answered
            known.update(self._list(numbers if len(numbers) == len(rest) else None))
        if lost := sum(name not in known for name in pictures):
            raise error or LabelStudioError(
                f"Label Studio took {lost} pictures but does not list them; push again later"
            )

    def _send(self, pictures: Mapping[str, bytes]) -> tuple[list[int], LabelStudioError | None]:
        """Upload some pictures in one request; return their numbers as far as they are known.

        Label Studio stores the files, and then refuses to make tasks of them by itself where the
        labelling config uses more than the image; the tasks are made elsewhere, so that is no
        matter.
        """
        path = f"/api/projects/{self._project}/import"
        files = {
            f"file{n}": (f"{name}.jpg", pictures[name], "image/jpeg")
            for n, name in enumerate(pictures)
        }
        try:
            answer = self._client.post(path, params={"commit_to_project": "false"}, files=files)
        except LabelStudioError as error:
            if isinstance(error, OutcomeUnknownError) or error.status == 400:
                return [], error
            if error.status != 413 or len(pictures) == 1:
                raise
            return self._send_halves(pictures)
        return list(answer.get("file_upload_ids") or []), None

    def _send_halves(
        self, pictures: Mapping[str, bytes]
    ) -> tuple[list[int], LabelStudioError | None]:
        """Upload pictures that are too large together."""
        names = list(pictures)
        middle = len(names) // 2
        halves = ({n: pictures[n] for n in some} for some in (names[:middle], names[middle:]))
        (first, error), (second, other) = map(self._send, halves)
        return first + second, error or other

    def _list(self, numbers: list[int] | None) -> dict[str, str]:
        """List uploads: those with these numbers, or all of them."""
        options = {"all": "true"} if numbers is None else {"ids": str(numbers)}
        path = f"/api/projects/{self._project}/file-uploads"
        found = {}
        for upload in self._client.get(path, params=options):
            # Eight characters and a hyphen come before the name.
            _, _, name = Path(urlsplit(upload["file"]).path).stem.partition("-")
            found[name] = f"{UPLOADS}{upload['file'].lstrip('/')}"
        return found
