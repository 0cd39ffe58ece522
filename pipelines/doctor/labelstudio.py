"""Whether the review would work: Label Studio's server, token, project, and images in a browser.

Nothing is made or changed there.
"""

import re
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpx

from captioner.annotations import NO_CLASSES, ClassNames
from captioner.contract import Captioner
from pipelines import storage
from pipelines.doctor.checks import SECONDS, Check, Finding, failed, not_checked, ok, warning
from pipelines.doctor.machine import MODEL_SECONDS
from pipelines.labelstudio import config
from pipelines.labelstudio.client import (
    LOOPBACK,
    Client,
    LabelStudioError,
    LabelStudioSettings,
    Token,
    claims_of,
    read_token,
)
from pipelines.labelstudio.images import Images, bucket_of, is_stored
from pipelines.labelstudio.project import find_project, is_empty
from pipelines.labelstudio.setup import unset
from schemas.uris import redact

OLDEST = (1, 20)
"""The version of Label Studio that is needed at least."""
PERMISSIONS = (
    "projects.create",
    "projects.change",
    "tasks.create",
    "tasks.delete",
    "predictions.any",
    "storages.change",
)
"""What a token's owner must be allowed, as Label Studio names it."""
SOON = timedelta(days=7)

_FETCH_SECONDS = 20.0
_NOT_SENT = Token("none")
_SET_BY = "captioner review init makes it ready"
_SIGNED_SECONDS = 60
_PREVIEWS = "upload previews by LABEL_STUDIO_PREVIEWS=1"
_CREDENTIALS = "give its server credentials that may read the bucket (docs/label-studio.md)"


class Review:
    """The checks of one project, each of which goes on from what those before it found."""

    def __init__(
        self,
        url: str,
        title: str,
        token_file: str | None,
        loaded: "Future[Captioner]",
        images: Mapping[str, "Future[str | None]"],
    ) -> None:
        """Look at nothing yet.

        Args:
            url: of Label Studio.
            title: of the project.
            token_file: that the token is in; None takes it from the environment.
            loaded: the model.
            images: the uri of an image for each input, as the user named it; None if none reads.
        """
        self._url, self._title, self._token_file = url, title, token_file
        self._loaded, self._images = loaded, images
        self._project: dict[str, Any] | None = None

    def checks(self) -> list[Check]:
        """Return the checks, in order."""
        return [
            Check("Label Studio", self.server, gate=True),
            Check("token", self.token, gate=True),
            Check("project", self.project, gate=True),
            Check("labelling config", self.labelling_config, MODEL_SECONDS + SECONDS),
            *(
                Check(f"browser, {redact(text)}", partial(self.image, text), 2 * SECONDS)
                for text in self._images
            ),
        ]

    def _client(self, token: Token | None = None) -> Client:
        token = token or read_token(self._token_file)
        return Client(LabelStudioSettings(self._url, self._title, token), retries=1)

    def server(self) -> Finding:
        """See that Label Studio answers, and which one; no token is sent."""
        with self._client(_NOT_SENT) as client:
            try:
                answer = client.get("/api/version", authorize=False)
            except LabelStudioError as error:
                if error.status is None:
                    raise
                answer = None
        release = _release(answer)
        if release is None:
            return failed(
                f"{self._url} answers, but is not Label Studio", "check --label_studio_url"
            )
        found = f"{self._url}: version {release} {answer.get('edition', '')}".rstrip()
        number = re.match(r"(\d+)\.(\d+)", release)
        if number and (int(number[1]), int(number[2])) < OLDEST:
            return failed(found, f"update it to {'.'.join(map(str, OLDEST))} or later")
        return ok(found)

    def token(self) -> Finding:
        """See that the token is good, for how long, and what its owner may do."""
        token = read_token(self._token_file)
        claims = claims_of(token)
        kind, left = "legacy token", None
        if claims is not None:
            kind = "personal access token"
            if isinstance(claims.get("exp"), int | float):
                ends = datetime.fromtimestamp(claims["exp"], UTC)
                kind += f" that expires on {ends:%Y-%m-%d}"
                left = ends - datetime.now(UTC)
        renew = "make another one under Account & Settings in Label Studio"
        if left is not None and left < timedelta():
            return failed(kind, renew)
        with self._client(token) as client:
            owner = client.get("/api/current-user/whoami")
        found = f"{kind}, of {owner.get('email')}"
        may = owner.get("permissions")
        if may is not None and (lacking := [name for name in PERMISSIONS if name not in may]):
            return failed(
                f"{found}, who lacks {', '.join(lacking)}",
                "use the token of somebody who may make and change projects",
            )
        if left is not None and left < SOON:
            return warning(found, renew)
        return ok(f"{found}, who may make and change projects" if may is not None else found)

    def project(self) -> Finding:
        """See whether the project is there, once."""
        with self._client() as client:
            self._project = find_project(client, self._title)
        if self._project is None:
            return ok(f"there is no {self._title!r} yet; captioner review init, or push, makes it")
        return ok(
            f"{self._title!r}, number {self._project['id']}, "
            f"{self._project.get('task_number') or 0:,} tasks"
        )

    def labelling_config(self) -> Finding:
        """See whether the project has the controls that the model needs."""
        if self._project is None or is_empty(self._project):
            return ok("made with the project, for what the model gives")
        try:
            classes, model = self._loaded.result().classes, "the model"
        except Exception:
            classes, model = NO_CLASSES, "captions; the model, which did not load, may need more"
        different = config.differences(str(self._project.get("label_config") or ""), classes)
        if different:
            return failed(
                "; ".join(different),
                "add that in Settings > Labeling Interface > Code, or name another "
                "--label_studio_project; captioner review init shows the config that is wanted",
            )
        if missing := unset(self._project):
            return warning(f"the project lacks {_settings(missing)}", _SET_BY)
        return ok(f"has the controls that are needed for {model}{_counts(classes)}")

    def image(self, text: str) -> Finding:
        """See whether a reviewer's browser gets to see an image of an input.

        Args:
            text: what the user named.
        """
        uri = self._images[text].result()
        if uri is None:
            return not_checked("the input has no image that can be read", "see the input above")
        number = self._project["id"] if self._project else 0
        with self._client() as client:
            previews = LabelStudioSettings(self._url, self._title, _NOT_SENT).previews
            images = Images(client, number, previews)
            if images.needs_preview(uri):
                return ok("shown by a preview that push uploads to Label Studio")
            if not is_stored(uri):
                return self._fetched(uri, "check that it needs no login")
            bucket = bucket_of(uri)
            if self._project is None or images.find_storage(bucket) is None:
                return self._without_storage(uri, bucket)
            try:
                address = images.address_elsewhere(uri)
            except LabelStudioError as error:
                if error.status != 404:
                    raise
                found = f"Label Studio has a storage for {bucket} but finds no address for {uri}"
                return failed(found, _CREDENTIALS)
        if address is None:
            return ok(f"Label Studio hands images of {bucket} through itself")
        return self._fetched(address, _CREDENTIALS)

    def _without_storage(self, uri: str, bucket: str) -> Finding:
        """See whether pages may read a bucket, by an address of our own, which is not kept."""
        remedy = "after the run, captioner review init makes one and says if it can read"
        unknown = f"the project has no storage for {bucket} yet, so it is not known whether Label "
        unknown += "Studio may read it"
        try:
            filesystem, path = storage.resolve(uri)
            status, allowed = self._get(filesystem.sign(path, expiration=_SIGNED_SECONDS))
        except Exception:  # not all stores' credentials can sign
            return not_checked(unknown, remedy)
        if status != 200:
            return not_checked(unknown, remedy)
        if not allowed:
            return self._forbidden(bucket)
        return not_checked(f"{unknown}; pages of {self._origin} may (CORS)", remedy)

    def _fetched(self, address: str, remedy: str) -> Finding:
        """Get an image as a browser does for a page of Label Studio's."""
        parts = urlsplit(address)
        host, here = parts.netloc.rpartition("@")[2], urlsplit(self._url)
        if here.scheme == "https" and parts.scheme == "http":
            return failed(
                f"{host} is asked by http, which browsers refuse on a page that came by https",
                f"serve the images by https, or {_PREVIEWS}",
            )
        status, allowed = self._get(address)
        if status != 200:
            return failed(f"{host} answers {status} instead of the image", remedy)
        if not allowed:
            return self._forbidden(host)
        if parts.hostname in LOOPBACK and here.hostname not in LOOPBACK:
            return warning(
                f"{host} gives the image, but to browsers on this machine alone",
                "use an address that reviewers' machines reach, too",
            )
        return ok(f"{host} gives the image, and lets pages of {self._origin} read it")

    def _forbidden(self, place: str) -> Finding:
        return failed(
            f"{place} does not let pages of {self._origin} read the image (CORS), so that "
            "reviewers see none",
            f"allow GET from the origin {self._origin} in the CORS settings there "
            f"(docs/label-studio.md), or {_PREVIEWS}",
        )

    @property
    def _origin(self) -> str:
        """Whose pages they are, as browsers write it: without a port that goes without saying."""
        url = httpx.URL(self._url)
        return f"{url.scheme}://{url.netloc.decode()}"

    def _get(self, address: str) -> tuple[int, bool]:
        """Ask for an image; return the status, and whether a page may read it (CORS).

        Label Studio's pages read an image by a script, and show none that they may not read.
        """
        with (
            httpx.Client(
                follow_redirects=True,
                timeout=_FETCH_SECONDS,
                trust_env=urlsplit(address).hostname not in LOOPBACK,
            ) as http,
            http.stream("GET", address, headers={"Origin": self._origin}) as answer,
        ):
            answers = [*answer.history, answer]
        to = (each.headers.get("access-control-allow-origin") for each in answers)
        return answer.status_code, all(origin in ("*", self._origin) for origin in to)


def _release(answer: object) -> str | None:
    """Return the version in what a server says of itself; None if it is not Label Studio."""
    if not isinstance(answer, dict):
        return None
    packages = [part for name, part in answer.items() if re.match("label-studio.*package", name)]
    versions = [part.get("version") for part in packages if isinstance(part, dict)]
    found = next(filter(None, [*versions, answer.get("release")]), None)
    return str(found) if packages and found else None


def _settings(missing: dict[str, object]) -> str:
    texts = {
        "show_collab_predictions": "captions that are filled in",
        "sampling": "the order of confidence",
    }
    return " and ".join(texts[name] for name in missing)


def _counts(classes: ClassNames) -> str:
    counts = [f"{len(names):,} {kind}" for kind, names in vars(classes).items() if names]
    return f", with {' and '.join(counts)}" if counts else ""
