import pytest

from schemas.uris import ArchiveMember, credentials_in, join_archive, redact, split_archive

SIGNED = [
    ("https://s3.amazonaws.com/b/k.jpg?X-Amz-Date=1&X-Amz-Signature=S3CR3T", "X-Amz-Signature"),
    ("https://storage.googleapis.com/b/k?X-Goog-Signature=S3CR3T", "X-Goog-Signature"),
    ("https://a.blob.core.windows.net/c/k.jpg?sv=2024&sig=S3CR3T", "sig"),
    ("https://b.s3.amazonaws.com/k?AWSAccessKeyId=S3CR3T&Signature=S3CR3T", "AWSAccessKeyId"),
    ("gs://bucket/k.jpg?access_token=S3CR3T", "access_token"),
    ("https://host/a.jpg?size=3&TOKEN=S3CR3T", "TOKEN"),
    ("https://host/a.jpg?key=S3CR3T", "key"),
    ("zip://a.jpg::https://host/a.zip?token=S3CR3T", "token"),
]


@pytest.mark.parametrize(("uri", "name"), SIGNED)
def test_a_signature_is_found_and_redacted(uri: str, name: str) -> None:
    assert credentials_in(uri) == f"the parameter {name}"
    assert "S3CR3T" not in redact(uri)
    assert f"{name}=***" in redact(uri)
    assert redact(redact(uri)) == redact(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "https://user:S3CR3T@host/a.jpg",
        "https://S3CR3T@host/a.jpg",
        "https://:S3CR3T@host",
        "s3://key:S3CR3T@bucket/a.jpg",
        "https://user:S3@CR3T@host/a.jpg",
        "zip://a.jpg::https://user:S3CR3T@host/a.zip",
    ],
)
def test_a_login_is_found_and_redacted(uri: str) -> None:
    assert credentials_in(uri) == "a user name or password"
    assert "CR3T" not in redact(uri)
    assert "***@" in redact(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///data/a?key=b@c.jpg",
        "file:///data/me@home/a.jpg",
        "gs://bucket/folder/me@home.jpg",
        "https://host/a.jpg?width=300&page=2",
        "https://host/@me/a.jpg",
        "zip://x?token=1.jpg::file:///a.zip",
        "memory:///a?sig=b",
    ],
)
def test_a_name_is_no_secret(uri: str) -> None:
    assert credentials_in(uri) is None


def test_secrets_within_a_message_are_redacted() -> None:
    message = "GET https://u:S3CR3T@h/a?x=1&sig=S3CR3T 'https://h/b?token=S3CR3T' failed: (403)"
    assert redact(message) == (
        "GET https://***@h/a?x=1&sig=*** 'https://h/b?token=***' failed: (403)"
    )
    assert redact("nothing to hide?page=1") == "nothing to hide?page=1"


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("zip://a/b.jpg::file:///x.zip", ("zip", "a/b.jpg", "file:///x.zip")),
        ("tar://::gs://b/x.tar", ("tar", "", "gs://b/x.tar")),
        ("zip://a::b.jpg::file:///c::d.zip", ("zip", "a::b.jpg", "file:///c::d.zip")),
        (
            "zip://a.jpg::tar://in.zip::file:///out.tar",
            ("zip", "a.jpg", "tar://in.zip::file:///out.tar"),
        ),
        ("zip://a\nb#?%41.jpg::s3://b/é.zip", ("zip", "a\nb#?%41.jpg", "s3://b/é.zip")),
    ],
)
def test_archives_are_taken_apart_and_put_together(uri: str, parts: tuple[str, str, str]) -> None:
    assert split_archive(uri) == ArchiveMember(*parts)
    assert join_archive(*parts) == uri


@pytest.mark.parametrize("uri", ["file:///a::b.jpg", "gs://b/zip://a::c.jpg", "/a.zip", "a::b"])
def test_what_is_in_no_archive(uri: str) -> None:
    assert split_archive(uri) is None


def test_a_member_without_its_archive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"zip://a\.jpg.*names no archive; write zip://MEMBER::"):
        split_archive("zip://a.jpg")
