"""Without a framework's package, its callback says what to install; nothing else needs it."""

from __future__ import annotations

import sys

import pytest

import optgeom
from optgeom.hooks import WatchError


@pytest.mark.parametrize(
    ("callback", "packages", "extra"),
    [
        ("HuggingFaceCallback", ("transformers",), "hf"),
        ("LightningCallback", ("lightning.pytorch", "pytorch_lightning"), "lightning"),
    ],
)
def test_a_framework_that_is_not_there_is_named(
    callback: str, packages: tuple[str, ...], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in packages:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(WatchError, match=rf"{callback} needs {packages[0]}") as raised:
        getattr(optgeom.frameworks, callback)
    assert f"pip install 'optgeom[{extra}]'" in str(raised.value)


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'KerasCallback'"):
        optgeom.frameworks.KerasCallback  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'Comet'"):
        optgeom.sinks.Comet  # noqa: B018
    for name in optgeom.sinks.__all__:
        assert getattr(optgeom.sinks, name) is not None
