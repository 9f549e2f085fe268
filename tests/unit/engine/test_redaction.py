"""Recognise credentials, and nothing else."""

import pytest

from ssl_transfer.engine.redaction import redacted, redacted_all

VALUE = "s3cr3t-value-of-a-test"
NAMES = (
    *("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY"),
    *("AWS_SESSION_TOKEN", "GITHUB_TOKEN", "MY_OWN_TOKEN", "OTHER_API_KEY", "A_SECRET", "DATABASE_PASSWORD"),
    *("TOKEN", "lower_case_token"),
)


@pytest.mark.parametrize("name", NAMES)
def test_values_of_secret_variables_are_hidden(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert redacted(f"a {VALUE}b") == f"a {VALUE}b"
    monkeypatch.setenv(name, VALUE)
    assert redacted(f"a {VALUE}b") == "a ***b"


@pytest.mark.parametrize(
    ("name", "value"), [("TOKENIZERS_PARALLELISM", "falsefalse"), ("A_TOKEN", "short"), ("B", VALUE)]
)
def test_other_variables_are_not(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert redacted(f"a {value}") == f"a {value}"


def test_a_value_that_begins_with_another_is_hidden_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", VALUE)
    monkeypatch.setenv("B_TOKEN", f"{VALUE}-and-more")
    assert redacted(f"{VALUE}-and-more {VALUE}") == "*** ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("get https://me:pass@word@host.org/x now", "get https://***@host.org/x now"),
        ("https://token@host.org", "https://***@host.org"),
        ("/here/https:/me:password@host.org/x", "/here/https:/***@host.org/x"),
        ("hf_abcdefghijklmnopqrstuvwxyz012345", "***"),
        ("--token=hf_abcdefghijklmnopqrstuvwxyz012345,", "--token=***,"),
        ("ghp_abcdefghijklmnopqrstuvwxyz0123456789", "***"),
    ],
)
def test_what_looks_like_a_credential_is_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "hf:owner/name,image=photo",
        "folder:/mnt/a@b",
        "folder:/a@b/c",
        "https://host.org/a@b",
        "see https://host.org?mail=me@host.org",
        "me@host.org",
        "the commit 0123456789abcdef0123456789abcdef01234567",
        "hf_hub_download",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert redacted(text) == text


def test_nested_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", VALUE)
    content = {"a": [1, None, f"x{VALUE}"], "b": {"c": (VALUE, 0.5)}}
    assert redacted_all(content) == {"a": [1, None, "x***"], "b": {"c": ("***", 0.5)}}
