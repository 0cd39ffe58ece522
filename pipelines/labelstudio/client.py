"""Talking to Label Studio over HTTP: tokens of both kinds, retries that cannot repeat an effect.

The SDK's own client is not used for this: it sends a POST again after an error of the server or
a lost answer, though the first one may have been carried out, and Label Studio has no
create-if-absent. Here a POST whose outcome is not known raises `OutcomeUnknownError`, so that the
caller looks at what is there before it sends anything again.
"""

import base64
import json
import logging
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self
from urllib.parse import urlsplit

import httpx

TOKEN_VARIABLE = "LABEL_STUDIO_API_KEY"
PREVIEWS_VARIABLE = "LABEL_STUDIO_PREVIEWS"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 90.0
RETRIES = 8  # a minute: as long as a restart of Label Studio takes
UNREACHED_RETRIES = 1  # where nothing has answered yet, an address that is wrong is likelier
MAX_DELAY_SECONDS = 20.0
MAX_ASKED_SECONDS = 120.0
MAX_DETAIL = 300

logger = logging.getLogger(__name__)


class LabelStudioError(Exception):
    """Something that Label Studio did not do: says what, why, and what to do; never the token.

    Attributes:
        status: the status that the server answered with, if it is what went wrong.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class OutcomeUnknownError(LabelStudioError):
    """A request that may or may not have been carried out."""


class FailingError(LabelStudioError):
    """A request that the server takes and fails at (status 500), each time."""


class Token:
    """An API token that is never printed, logged or pickled by accident (promise 10)."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Keep a token.

        Raises:
            LabelStudioError: if this cannot be a token.
        """
        value = value.strip()
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            raise LabelStudioError(
                f"the Label Studio token is {'empty' if not value else 'not one word of ASCII'}; "
                "copy it from Account & Settings in Label Studio"
            )
        self._value = value

    def reveal(self) -> str:
        """Return the token itself, for the header of a request and nothing else."""
        return self._value

    def __repr__(self) -> str:
        return "Token(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token is not pickled; read it where it is used")


def read_token(
    token_file: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Token:
    """Read the token from a file, else from the environment variable LABEL_STUDIO_API_KEY.

    Args:
        token_file: a local file that holds the token and nothing else.
        environ: the environment variables.

    Returns:
        The token, of either kind that Label Studio knows.

    Raises:
        LabelStudioError: if there is none.
    """
    if token_file:
        try:
            return Token(Path(token_file).read_text())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise LabelStudioError(
                f"the token file {os.fspath(token_file)!r} was not read: {reason}; "
                f"write the token into it, or set {TOKEN_VARIABLE}"
            ) from None
    if not environ.get(TOKEN_VARIABLE):
        raise LabelStudioError(
            f"no token for Label Studio; set {TOKEN_VARIABLE} or name a --label_studio_token_file "
            "(the token is under Account & Settings in Label Studio)"
        )
    return Token(environ[TOKEN_VARIABLE])


@dataclass(frozen=True)
class LabelStudioSettings:
    """Where the review queue is.

    Attributes:
        url: the address of Label Studio, as a browser has it, without a page behind it.
        project: the title of the project.
        token: a personal access token or a legacy one.
        previews: upload a preview of every image, even of one that Label Studio could read from
            its store itself; by default if LABEL_STUDIO_PREVIEWS is 1.
    """

    url: str
    project: str
    token: Token
    previews: bool = field(
        default_factory=lambda: os.environ.get(PREVIEWS_VARIABLE, "").lower() in ("1", "true")
    )

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            LabelStudioError: if the address or title cannot be used.
        """
        try:
            parts = urlsplit(self.url)
        except ValueError as error:  # Such as brackets that are no address of IPv6.
            raise LabelStudioError(
                f"the Label Studio address cannot be read ({error}); write http://host:port"
            ) from None
        if parts.username or parts.password or parts.query or parts.fragment:
            raise LabelStudioError(
                "the Label Studio address carries a login, a query or a fragment (not shown "
                "here); leave only http://host:port, and the token in its own place"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LabelStudioError(
                f"{self.url!r} is not an address of Label Studio; write http://host:port"
            )
        if not 3 <= len(self.project) <= 50:
            raise LabelStudioError(
                f"the project title {self.project!r} has {len(self.project)} characters; "
                "Label Studio takes 3 to 50"
            )


class Client:
    """A connection to one Label Studio. Safe to share between threads."""

    def __init__(self, settings: LabelStudioSettings, retries: int = RETRIES) -> None:
        """Open a connection; nothing is sent yet.

        Args:
            settings: where Label Studio is, and the token.
            retries: how often a request is sent again, with growing delays.
        """
        self.url = settings.url.rstrip("/")
        self._token = settings.token
        self._retries = retries
        self._personal = claims_of(settings.token) is not None
        self._access: str | None = None
        self._reached = False
        self._http = httpx.Client(
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            trust_env=urlsplit(settings.url).hostname not in LOOPBACK,  # no proxy to oneself
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._http.close()

    def check(self) -> None:
        """Make sure that this is Label Studio and that it takes the token.

        That nothing answers at the address is said within seconds.

        Raises:
            LabelStudioError: if not.
        """
        try:
            version = self._send("GET", "/api/version", authorize=False).json()
            if not isinstance(version, dict) or not any("label-studio" in key for key in version):
                raise self._not_label_studio()
            self._send("GET", "/api/current-user/whoami")
        except ValueError:
            raise self._not_label_studio() from None
        except LabelStudioError as error:
            if error.status in (None, 401, 403):
                raise
            raise self._not_label_studio() from None

    def get(self, path: str, *, failing: int | None = None, **options: Any) -> Any:
        """Get JSON; sent again when the network or the server fails.

        Args:
            path: what to get.
            failing: after how many answers with status 500 to believe them; as often as all else
                is tried if None.
            options: of the request.

        Raises:
            FailingError: if the server answers, but with status 500.
        """
        return self._json(self._send("GET", path, failing=failing, **options))

    def patch(self, path: str, body: object) -> Any:
        """Change what is there; sent again when the network or the server fails."""
        return self._json(self._send("PATCH", path, json=body))

    def delete(self, path: str) -> None:
        """Remove what is there, or was; sent again when the network or the server fails."""
        self._send("DELETE", path, allowed=(404,))

    def post(self, path: str, **options: Any) -> Any:
        """Create something; sent again only when the server cannot have seen it.

        Raises:
            OutcomeUnknownError: if it may or may not have been carried out.
            LabelStudioError: if it was refused.
        """
        return self._json(self._send("POST", path, **options))

    def status(self, path: str, **options: Any) -> int:
        """Get something and say only the status, whatever it is; redirects are not followed."""
        return self._send("GET", path, allowed=range(300, 500), **options).status_code

    def location(self, path: str, **options: Any) -> str | None:
        """Return the address that a path leads to elsewhere; None if the server answers itself.

        Raises:
            LabelStudioError: if it does neither.
        """
        response = self._send("GET", path, allowed=range(300, 400), **options)
        return response.headers.get("location")

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json() if response.content else None
        except ValueError:
            unknown = response.request.method == "POST"
            raise (OutcomeUnknownError if unknown else LabelStudioError)(
                f"{_call(response.request)} was answered with something that is not JSON; "
                f"is {self.url} Label Studio, and nothing in between?"
            ) from None

    def _send(
        self,
        method: str,
        path: str,
        *,
        authorize: bool = True,
        allowed: tuple[int, ...] | range = (),
        failing: int | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Send a request until it is answered, refused, or not worth another try."""
        last = self._retries
        failed = 0
        repeatable, more = method != "POST", options.pop("headers", {})
        for attempt in range(last + 1):
            response: httpx.Response | None = None
            try:
                headers = (self._authorization() if authorize else {}) | more
                response = self._http.request(method, self.url + path, headers=headers, **options)
                self._reached = True
                if response.status_code == 401 and self._access and attempt < last:
                    self._access = None  # a personal token's access runs out after minutes
                    continue
                unsent, reason = response.status_code == 429, f"status {response.status_code}"
                if response.status_code < 500 and not unsent:
                    return self._accepted(response, allowed)
                failed = failed + 1 if response.status_code == 500 else 0
                if failed == failing:
                    last = attempt
            except (httpx.TransportError, httpx.DecodingError) as error:
                unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                reason = f"no {'connection' if unsent else 'answer'} ({type(error).__name__})"
                if not self._reached and (unsent or isinstance(error, httpx.TimeoutException)):
                    last = min(last, UNREACHED_RETRIES)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise LabelStudioError(f"{self.url!r} is no address: {error}") from None
            if not (unsent or repeatable):
                raise OutcomeUnknownError(
                    f"{method} {self.url}{path}: {reason}; it may have been carried out all the "
                    "same; push again, which adds only what is missing"
                )
            if attempt >= last:
                break
            logger.info("%s %s: %s; trying again", method, path, reason)
            self.wait(attempt, response)
        if response is not None and response.status_code == 500:
            raise FailingError(
                f"Label Studio at {self.url} fails at {method} {path} (status 500, {attempt + 1} "
                "times); its log says why"
            )
        raise LabelStudioError(
            f"Label Studio at {self.url} does not answer ({method} {path}: {reason}, "
            f"{last + 1} times); check that it runs and that --label_studio_url is right"
        )

    def wait(self, attempt: int, response: httpx.Response | None = None) -> None:
        """Wait before another try: as long as the server asks for, else longer each time."""
        time.sleep(_delay(attempt, response))

    def _accepted(
        self, response: httpx.Response, allowed: tuple[int, ...] | range
    ) -> httpx.Response:
        """Return a response that means success; say what is wrong with another."""
        status = response.status_code
        if status < 300 or status in allowed:
            return response
        call, detail = _call(response.request), self._detail(response)
        if status < 400:
            target = response.headers.get("location", "elsewhere").partition("?")[0]
            raise LabelStudioError(
                f"{self.url} sends its callers to {target}; give that address as --label_studio_url"
            )
        if status == 401:
            raise LabelStudioError(
                f"Label Studio at {self.url} refuses the token ({detail}); copy a valid one from "
                "Account & Settings there (a legacy token must be enabled for the organization)",
                status,
            )
        if status == 403:
            raise LabelStudioError(
                f"the token's owner may not do this in Label Studio: {call} ({detail}); use the "
                "token of somebody who may change the project",
                status,
            )
        if status == 413:
            raise LabelStudioError(
                f"{call} is too large for Label Studio at {self.url}, or for a proxy before it "
                "(status 413); raise that limit, which nginx calls client_max_body_size",
                status,
            )
        raise LabelStudioError(
            f"Label Studio refused {call} with status {status}: {detail}; check the project's "
            "settings, or that the server's version is 1.20 or later",
            status,
        )

    def _detail(self, response: httpx.Response) -> str:
        """Return what the server says, short and without the token."""
        try:
            body = response.json()
            text = json.dumps(body.get("validation_errors") or body.get("detail") or body)
        except (ValueError, AttributeError):
            text = "no reason given"
        for secret in (self._token.reveal(), self._access):
            text = text.replace(secret, "***") if secret else text
        return text[:MAX_DETAIL]

    def _authorization(self) -> dict[str, str]:
        if not self._personal:
            return {"Authorization": f"Token {self._token.reveal()}"}
        access = self._access or self._refresh()
        self._access = access
        return {"Authorization": f"Bearer {access}"}

    def _refresh(self) -> str:
        """Get access for some minutes with a personal access token."""
        body = {"refresh": self._token.reveal()}
        response = self._http.post(self.url + "/api/token/refresh/", json=body)
        if response.status_code in (429, *range(500, 600)):
            raise httpx.ConnectError("the token was not looked at")
        self._accepted(response, ())
        try:
            return str(response.json()["access"])
        except (ValueError, KeyError, TypeError):
            raise self._not_label_studio() from None

    def _not_label_studio(self) -> LabelStudioError:
        return LabelStudioError(
            f"{self.url} answers, but is not Label Studio; check --label_studio_url"
        )


def claims_of(token: Token) -> dict[str, Any] | None:
    """Return what a personal access token says of itself, such as ``exp``, when it expires.

    None of a legacy token, which is 40 hex digits, where a personal one is a JWT.
    """
    parts = token.reveal().split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return None
    return claims if isinstance(claims, dict) else None


def _call(request: httpx.Request) -> str:
    return f"{request.method} {request.url.path}"


def _delay(attempt: int, response: httpx.Response | None) -> float:
    """Say how long to wait before another try: as asked, else longer each time."""
    asked = response.headers.get("retry-after", "") if response is not None else ""
    if asked.isdigit():
        return min(float(asked), MAX_ASKED_SECONDS)
    return min(0.5 * 2.0**attempt, MAX_DELAY_SECONDS) * random.uniform(0.75, 1.25)
