"""How a reviewer gets to see an image: its own address, the project's storage, or a preview.

Pixels are never carried inside a task's data: that makes every later query of the project slow.
"""

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from captioner.images import ImageError, Limits, decode
from pipelines.labelstudio.client import Client, LabelStudioError, OutcomeUnknownError
from pipelines.labelstudio.uploads import UPLOADS, Uploads
from pipelines.storage import StorageError, read_bytes
from schemas.identity import image_id

PREVIEW_SIZE = (512, 512)
PREVIEW_QUALITY = 85
PREVIEW_THREADS = 4
BY_DEFAULT = Limits()
STORES = {"gs": "gcs", "s3": "s3"}
UNSHOWN = (".tif", ".tiff")  # browsers do not draw these
PRESIGN_MINUTES = 15
NOTHING = "(?!)"  # a filter that no name matches: a sync in the browser must import nothing


@dataclass(frozen=True)
class Picture:
    """An image that is to be shown: its task's key and where the original is."""

    image_id: str
    uri: str


def is_address(uri: str) -> bool:
    """Say whether a browser can fetch an image and draw it."""
    return uri.startswith(("http://", "https://")) and not _unshown(uri)


def is_preview(address: str) -> bool:
    """Say whether an address of a task is that of an uploaded preview."""
    return address.startswith(UPLOADS)


def shown_size(width: int, height: int) -> tuple[int, int]:
    """Return the width and height of an image's preview; small images keep theirs."""
    share = min(1.0, PREVIEW_SIZE[0] / width, PREVIEW_SIZE[1] / height)
    return max(1, round(width * share)), max(1, round(height * share))


def is_stored(uri: str) -> bool:
    """Say whether Label Studio can read an image through a project's storage.

    It takes uris apart as if they were URLs, and so loses what follows a question mark, line
    breaks, and white space at the end; such names are left to previews.
    """
    protocol, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    odd = "?" in key or key.startswith("/") or key != key.strip() or not key.isprintable()
    return protocol in STORES and bool(bucket and key) and not odd and not _unshown(uri)


def bucket_of(uri: str) -> str:
    """Return the bucket of a uri that ``is_stored``, such as ``gs://photos``."""
    protocol, _, rest = uri.partition("://")
    return f"{protocol}://{rest.partition('/')[0]}"


def _unshown(uri: str) -> bool:
    return uri.lower().endswith(UNSHOWN)


class Images:
    """Finds, for each image of a project, the address that goes into its task.

    Attributes:
        uploads: of the project, previews among them, by image id.
    """

    def __init__(
        self, client: Client, project_id: int, previews: bool, limits: Limits = BY_DEFAULT
    ) -> None:
        """Look at nothing yet.

        Args:
            client: a connection to Label Studio.
            project_id: the number of the project.
            previews: upload a preview even of what Label Studio could read itself.
            limits: how many pixels an image may have whose preview is made.
        """
        self._client = client
        self._project = project_id
        self._previews, self._limits = previews, limits
        self.uploads = Uploads(client, project_id)
        self._ready: set[str] = set()

    def needs_preview(self, uri: str) -> bool:
        """Say whether a preview of an image is uploaded, since nothing else can show it."""
        return self._previews or not (is_address(uri) or is_stored(uri))

    def addresses(
        self, pictures: Sequence[Picture]
    ) -> tuple[dict[str, str], list[tuple[Picture, str]]]:
        """Make sure that images can be shown.

        Args:
            pictures: the images, each image id once.

        Returns:
            The address for each image id, and the images that cannot be shown, each with why.

        Raises:
            LabelStudioError: if Label Studio cannot read a bucket, or takes no upload.
        """
        found: dict[str, str] = {}
        rest: list[Picture] = []
        for picture in pictures:
            if self.needs_preview(picture.uri):
                rest.append(picture)
                continue
            if is_stored(picture.uri):
                self.open_store(picture.uri)
            found[picture.image_id] = picture.uri
        uploaded, failed = self._upload(rest)
        return found | uploaded, failed

    def open_store(self, uri: str) -> bool:
        """Make sure that the project has a storage for a uri's bucket, and that it can read.

        Args:
            uri: of an image that ``is_stored``.

        Returns:
            Whether the storage was made now.

        Raises:
            LabelStudioError: if Label Studio cannot read the bucket.
        """
        bucket = bucket_of(uri)
        if bucket in self._ready:
            return False
        found = self.find_storage(bucket)
        self._try_storage(found or self._make_storage(bucket), bucket, uri)
        self._ready.add(bucket)
        return found is None

    def find_storage(self, bucket: str) -> dict[str, Any] | None:
        """Return the project's storage for a bucket as Label Studio has it, None without one."""
        protocol, _, name = bucket.partition("://")
        path = f"/api/storages/{STORES[protocol]}"
        for storage in self._client.get(path, params={"project": self._project}):
            if storage["bucket"] == name:
                return dict(storage)
        return None

    def _make_storage(self, bucket: str) -> dict[str, Any]:
        protocol, _, name = bucket.partition("://")
        body = {
            "project": self._project,
            "title": f"Images of {bucket}",
            "description": "Made by captioner to show images; there is nothing to sync.",
            "bucket": name,
            "regex_filter": NOTHING,
            "presign": True,
            "presign_ttl": PRESIGN_MINUTES,
        }
        body |= _credentials(protocol)
        try:
            return dict(self._client.post(f"/api/storages/{STORES[protocol]}", json=body))
        except LabelStudioError as error:
            # An error of the server's own, too, is how it says that it has no credentials.
            lost = isinstance(error, OutcomeUnknownError)
            if lost and (found := self.find_storage(bucket)) is not None:
                return found
            raise LabelStudioError(
                f"Label Studio does not get at {bucket}, so reviewers would see no images "
                f"({error}); give its server credentials for the bucket "
                "(docs/label-studio.md), or upload previews by LABEL_STUDIO_PREVIEWS=1"
            ) from None

    def _try_storage(self, storage: dict[str, Any], bucket: str, uri: str) -> None:
        """Check that an address is found for an image; where nothing can sign, proxy instead.

        On Google Cloud, credentials without a private key (those of a machine) cannot sign; Label
        Studio then hands the image through itself.
        """
        if self._resolves(uri):
            return
        protocol, _, _ = bucket.partition("://")
        if storage.get("presign"):
            path = f"/api/storages/{STORES[protocol]}/{storage['id']}"
            self._client.patch(path, {"presign": False})
            if self._resolves(uri):
                return
            self._client.patch(path, {"presign": True})
        raise LabelStudioError(
            f"Label Studio has a storage for {bucket} but finds no address for {uri!r}; check its "
            "server's credentials for the bucket (docs/label-studio.md), or upload previews by "
            "LABEL_STUDIO_PREVIEWS=1"
        )

    def _resolves(self, uri: str) -> bool:
        path, params = self._resolving(uri)
        return self._client.status(path, params=params) < 400

    def address_elsewhere(self, uri: str) -> str | None:
        """Return where Label Studio sends a browser for an image; None if it hands it through.

        The address is signed for some minutes: show it to nobody.

        Args:
            uri: of an image that ``is_stored``, in a bucket that the project has a storage for.

        Raises:
            LabelStudioError: if Label Studio finds no address.
        """
        path, params = self._resolving(uri)
        return self._client.location(path, params=params)

    def _resolving(self, uri: str) -> tuple[str, dict[str, str]]:
        name = base64.urlsafe_b64encode(uri.encode()).decode()
        return f"/projects/{self._project}/resolve/", {"fileuri": name}

    def _upload(
        self, pictures: Sequence[Picture]
    ) -> tuple[dict[str, str], list[tuple[Picture, str]]]:
        """Upload previews of images, those of an interrupted push excepted."""
        if not pictures:
            return {}, []
        uploads = self.uploads.known()
        missing = [picture for picture in pictures if picture.image_id not in uploads]
        made, failed = _previews(missing, self._limits)
        self.uploads.add(dict(made))
        ids = (picture.image_id for picture in pictures)
        return {i: uploads[i] for i in ids if i in uploads}, failed


def _previews(
    pictures: Sequence[Picture], limits: Limits
) -> tuple[list[tuple[str, bytes]], list[tuple[Picture, str]]]:
    """Make previews on a few threads; reading and decoding wait for no one there."""
    made: list[tuple[str, bytes]] = []
    failed: list[tuple[Picture, str]] = []
    with ThreadPoolExecutor(PREVIEW_THREADS) as pool:
        results = pool.map(partial(_try, limits=limits), pictures)
        for picture, result in zip(pictures, results, strict=True):
            if isinstance(result, bytes):
                made.append((picture.image_id, result))
            else:
                failed.append((picture, result))
    return made, failed


def _try(picture: Picture, limits: Limits) -> bytes | str:
    """Make the preview of an image as it was captioned; say why if that cannot be done."""
    try:
        data = read_bytes(picture.uri)
        if image_id(data) != picture.image_id:
            return "no preview: it has changed since it was captioned; run captioner annotate again"
        return preview(data, limits)
    except (StorageError, ImageError) as error:
        return f"no preview: {error}"


def preview(data: bytes, limits: Limits = BY_DEFAULT) -> bytes:
    """Make a small JPEG of an image, upright, in RGB, without its metadata.

    Args:
        data: the bytes of the original.
        limits: how many pixels it may have.

    Returns:
        The bytes of a JPEG of at most 512 x 512 pixels.

    Raises:
        ImageError: if it cannot be decoded.
    """
    decoded = decode(data, limits, PREVIEW_SIZE)
    # Of the original's sides, not of the draft's: masks have to be of just this size.
    size = shown_size(decoded.width, decoded.height)
    image = decoded.image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    output = io.BytesIO()
    image.save(output, "JPEG", quality=PREVIEW_QUALITY)
    return output.getvalue()


def _credentials(protocol: str) -> dict[str, str]:
    """Return what a storage needs to reach its bucket beyond what the server has itself.

    Secrets go to Label Studio, which keeps them in its database, only where they were set for
    that by name; the ones that this process reads images with are never handed on.
    """
    names = {
        "s3": {
            "aws_access_key_id": ("LABEL_STUDIO_STORAGE_AWS_ACCESS_KEY_ID",),
            "aws_secret_access_key": ("LABEL_STUDIO_STORAGE_AWS_SECRET_ACCESS_KEY",),
            "aws_session_token": ("LABEL_STUDIO_STORAGE_AWS_SESSION_TOKEN",),
            "s3_endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
            "region_name": ("AWS_REGION", "AWS_DEFAULT_REGION"),
        },
        "gs": {},
    }[protocol]
    found = {
        field: next((os.environ[name] for name in variables if os.environ.get(name)), "")
        for field, variables in names.items()
    }
    key_file = os.environ.get("LABEL_STUDIO_STORAGE_GOOGLE_CREDENTIALS")
    if protocol == "gs" and key_file:
        try:
            found["google_application_credentials"] = Path(key_file).read_text()
        except OSError as error:
            raise LabelStudioError(
                f"the key file {key_file!r} that LABEL_STUDIO_STORAGE_GOOGLE_CREDENTIALS names "
                f"was not read: {error.strerror}; correct the variable or unset it"
            ) from None
    return {field: value for field, value in found.items() if value}
