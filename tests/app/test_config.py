"""The configuration: what is read, what is refused, and that each key is documented."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from surefoot.config import Config, load
from surefoot.errors import BadRequest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "configuration.md"


def written(folder: Path, text: str) -> Path:
    path = folder / "surefoot.toml"
    path.write_text(text)
    return path


def keys(kind: type, prefix: str = "") -> list[str]:
    found = []
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found += keys(field.type, f"{field.name}.")
        else:
            found.append(prefix + field.name)
    return found


def test_an_empty_file_gives_the_defaults(tmp_path):
    assert load(written(tmp_path, "")).trial.tries == 3


def test_relative_folders_are_relative_to_the_file(tmp_path):
    assert load(written(tmp_path, 'data_dir = "."')).data_dir == tmp_path.resolve()


def test_certificates_are_relative_to_the_file(tmp_path):
    assert load(written(tmp_path, '[fetch]\nca_file = "ca.pem"')).fetch.ca_file == str(tmp_path.resolve() / "ca.pem")
    assert load(written(tmp_path, "")).fetch.ca_file == ""


@pytest.mark.parametrize("proxy", ["", "direct", "http://proxy:3128", "https://proxy.example/"])
def test_a_proxy_is_an_address_without_a_password(tmp_path, proxy):
    assert load(written(tmp_path, f'[fetch]\nproxy = "{proxy}"')).fetch.proxy == proxy


@pytest.mark.parametrize(
    "text",
    [
        "data_dirr = '/x'",
        "[gateway]\nprot = 1",
        "[gateway]\nport = 70000",
        "[gateway]\nport = 'http'",
        "[trial]\ntries = 0",
        "[storage]\narchive_bytes = -1",
        "[trust]\nclock = 'perhaps'",
        "[fetch]\nmin_bytes_s = 0",
        "[fetch]\nproxy = 'socks5://proxy:1080'",
        "[fetch]\nproxy = 'http://user:password@proxy:3128'",
        "runtimes = []",
        "data_dir = 3",
        "not toml",
        "x" * 70_000,
        "\x00",
    ],
)
def test_what_is_not_a_configuration_is_refused_by_name(tmp_path, text):
    with pytest.raises((BadRequest,)) as refused:
        load(written(tmp_path, text))
    assert "surefoot.toml" in str(refused.value)


def test_a_missing_file_says_how_to_name_one(tmp_path):
    with pytest.raises(BadRequest, match="--config"):
        load(tmp_path / "none.toml")


def test_each_key_is_documented_and_nothing_else_is():
    documented = {line.split("`")[1] for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")}
    assert documented == set(keys(Config))
