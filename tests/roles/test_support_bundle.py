"""What leaves a device in a support bundle: nothing secret, and no more than its bounds."""

from __future__ import annotations

import importlib.util
import io
import json
import string
import tarfile
import time
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.roles.controller import ROOT


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COLLECT = load("roles/support_bundle/files/collect.py")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('token = "abc def"', 'token = "[redacted]"'),
        ('{"api_key": "xyz", "a": 1}', '{"api_key": "[redacted]", "a": 1}'),
        ('{\\"token\\": \\"ab\\\\\\"cd\\", \\"x\\": 2}', '{\\"token\\": \\"[redacted]\\", \\"x\\": 2}'),
        ("{'token': b'abcdef'}", "{'token': b'[redacted]'}"),
        ("password: my pass phrase", "password: [redacted]"),
        ("env TOKEN=abc next=1", "env TOKEN=[redacted] next=1"),
        ("app --password hunter22 --port 80", "app --password [redacted] --port 80"),
        ("X-Api-Key: aaa bbb", "X-Api-Key: [redacted]"),
        ('"Authorization": "Bearer abc"', '"Authorization": "[redacted]"'),
        ("GET / with Bearer abc.def", "GET / with Bearer [redacted]"),
        (
            "https://fleet:p4ss@example.com/x?token=abc&page=2",
            "https://[redacted]@example.com/x?token=[redacted]&page=2",
        ),
        ("https://ghp_abcdefghijklmnop@example.com", "https://[redacted]@example.com"),
        ('  #psk="plain wifi"', '  #psk="[redacted]"'),
        ("wpa_passphrase=over the air", "wpa_passphrase=[redacted]"),
        ("wifi:\n  password: |\n    two\n    lines\n  ssid: x", "wifi:\n  password: |\n    [redacted]\n  ssid: x"),
        ("root:$6$abcdefgh$sldkfjsldkfj:1", "root:[redacted]:1"),
        ("saw eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.c2ln here", "saw [redacted] here"),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nb", "a\n[redacted]\nb"),
        ("AAAABBBBCCCCDDDDEEEE\nZZZZ0123456789abcd==\n-----END PRIVATE KEY-----\nb", "[redacted]\nb"),
        ("x: $ANSIBLE_VAULT;1.1;AES256\n  6162636465666768\n  6162636465666768\ny", "x: [redacted]\ny"),
    ],
)
def test_a_secret_is_taken_out_and_the_rest_stays(text: str, expected: str) -> None:
    assert COLLECT.redact(text) == expected
    assert COLLECT.redact(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        "Nov 30 02:54:32 cam-1 surefoot[812]: model fashion-mnist 2.0.0 confirmed in slot b after 61.2 s",
        'token_file = "/data/surefoot/secrets/telemetry-token"',
        '{"held": false, "signal": 9, "psk": true, "version": "2.0.0"}',
        "http://127.0.0.1:8080/v2/health/ready answered 200",
        "/dev/mmcblk0p2 / ext4 rw,noatime,errors=remount-ro 0 0",
        "ssh-ed25519 key of cam-1 is SHA256:abcdefgh",
    ],
)
def test_what_helps_to_find_a_fault_stays_as_it_is(text: str) -> None:
    assert COLLECT.redact(text) == text


SECRETS = st.text(string.ascii_letters + string.digits + "+/=_!#%^*()<>? -", min_size=12, max_size=40).filter(
    lambda secret: secret == secret.strip() and len(set(secret)) > 6
)
FORMS = [
    "password={}", 'api_token: "{}"', "  psk: '{}'", '{{"client_secret": "{}"}}', "SECRET_KEY = {}", "cookie: {}",
    'level=info msg="{{\\"auth_token\\": \\"{}\\"}}"',
]  # fmt: skip


@given(secret=SECRETS, form=st.sampled_from(FORMS), noise=st.text(string.printable, max_size=60))
def test_no_value_of_a_secret_name_is_left_whatever_it_is(secret: str, form: str, noise: str) -> None:
    assume(secret not in noise)
    said = COLLECT.redact(f"{form.format(secret)}\n{noise}")
    assert secret not in said
    assert COLLECT.redact(said) == said


@given(secret=SECRETS, before=st.text(string.printable, max_size=40), after=st.text(string.printable, max_size=40))
def test_the_devices_own_secrets_are_found_anywhere_and_in_other_forms(secret: str, before: str, after: str) -> None:
    for form in COLLECT._written([secret]):
        assert form not in COLLECT.redact(f"{before}{form}{after}", [secret])


@pytest.mark.parametrize(
    "text",
    ["A" * 262144, "token" * 50000, 'psk="' * 50000, "http://" * 37000, "x://" + ":" * 262144, "password: |\n" * 20000,
     "-token -" * 32000, "\\" * 262144, " " * 262144, "-----BEGIN PRIVATE KEY-----\n" * 9000, "A" * 63 + "\n" * 4096],
    ids=lambda text: text[:8].strip() or "blanks",
)  # fmt: skip
def test_no_text_takes_long_to_redact(text: str) -> None:
    started = time.monotonic()
    COLLECT.redact(text)
    assert time.monotonic() - started < 20


def test_a_cut_keeps_the_newest_whole_lines() -> None:
    text = "".join(f"line {number}\n" for number in range(1000))
    data, was_cut = COLLECT.cut(text, 100)
    assert was_cut
    assert data.decode() == "".join(f"line {number}\n" for number in range(989, 1000))
    assert COLLECT.cut("short\n", 100) == (b"short\n", False)


def test_a_bundle_stays_within_its_bounds_and_says_what_was_cut(tmp_path: Path) -> None:
    (tmp_path / "big.log").write_text("".join(f"{number} password=hunter2\n" for number in range(100_000)))
    bundle = COLLECT.Gathering(10_000, 25_000, [])
    for name in ("one", "two", "three", "four"):
        bundle.file(name, tmp_path / "big.log")
    bundle.command("printed", "sh", "-c", "yes 'token=abcdefgh' | head -n 100000; exit 3")
    bundle.command("missing", "no-such-command")
    with tarfile.open(fileobj=io.BytesIO(bundle.archive())) as tar:
        sizes = {Path(member.name).name: member.size for member in tar.getmembers()}
        index = json.load(tar.extractfile("surefoot-support/index.json"))  # type: ignore[arg-type]  # it is a file
        text = b"".join(tar.extractfile(member).read() for member in tar.getmembers())  # type: ignore[union-attr]  # so are all
    del sizes["index.json"]
    assert max(sizes.values()) <= 10_000
    assert sum(sizes.values()) <= 25_000
    assert b"hunter2" not in text
    assert b"token=abcdefgh" not in text
    assert (index["one"]["cut"], index["one"]["redacted"] > 0) == (True, True)
    assert index["printed"]["note"] == "exit status 3"
    assert index["missing"]["note"].startswith("not run: ")


def test_a_command_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(COLLECT, "COMMAND_TIMEOUT_S", 0.3)
    bundle = COLLECT.Gathering(1000, 1000, [])
    bundle.command("hangs", "sleep", "60")
    assert bundle.notes["hangs"]["note"].startswith("stopped after")


def test_files_under_secrets_are_read_to_be_hidden_and_are_in_no_bundle(tmp_path: Path) -> None:
    data = tmp_path / "surefoot"
    (data / "secrets").mkdir(parents=True)
    (data / "secrets" / "telemetry-token").write_text("a-long-random-word\n")
    (data / "surefoot.toml").write_text('note = "the word is a-long-random-word"\n')
    (data / "logs").mkdir()
    (data / "logs" / "serve.log").write_text("sent a-long-random-word\n")
    bundle = COLLECT.Gathering(10_000, 100_000, COLLECT.read_secrets(data / "secrets"))
    COLLECT.gather(
        bundle,
        {
            "executable": "/nowhere/surefoot",
            "config": str(data / "surefoot.toml"),
            "data_dir": str(data),
            "units": ["surefoot*"],
            "since": "-1 hours",
        },
    )
    assert bundle.files["surefoot.toml"] == b'note = "the word is [redacted]"\n'
    assert bundle.files["logs/serve.log"] == b"sent [redacted]\n"
    assert b"a-long-random-word" not in b"".join(bundle.files.values())
    assert [name for name in bundle.files if "telemetry-token" in name] == []
