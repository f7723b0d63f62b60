"""Models of any size are checked and planned from headers: a few kilobytes are read, whatever the files hold."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cocktail_hub import check
from cocktail_hub.checkpoint.files import LocalFiles
from cocktail_hub.merge.options import MixOptions

if TYPE_CHECKING:
    from types import ModuleType

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def synthetic(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import synthetic_headers

    return synthetic_headers


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each read of a local model."""
    sizes: list[int] = []
    read_range = LocalFiles.read_range

    def counted(self: LocalFiles, path: str, start: int, stop: int) -> bytes:
        sizes.append(stop - start)
        return read_range(self, path, start, stop)

    monkeypatch.setattr(LocalFiles, "read_range", counted)
    return sizes


@pytest.mark.skipif(sys.platform == "win32", reason="needs files with holes")
def test_four_models_of_8b_are_checked_by_their_headers_alone(
    tmp_path: Path, synthetic: ModuleType, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cocktail_hub.resolve.resolve.folder_digest", lambda *_: pytest.fail("the weights were read"))
    recipe, parameters = synthetic.write_recipe(tmp_path, "llama-8b", 4)
    assert parameters == 8_030_261_248
    on_disk = sum(512 * path.stat().st_blocks for path in tmp_path.rglob("*"))
    assert on_disk < 2_000_000
    found = check(str(recipe))
    assert sum(read) < 4_000_000
    assert found.tensors == 291
    assert found.input_bytes == 4 * 2 * parameters
    assert found.output_bytes == pytest.approx(2 * parameters, rel=1e-5)
    assert found.largest_input == pytest.approx(4 * found.largest_file, rel=1e-4)
    assert found.peak_disk == found.output_bytes  # the models are on the disk already
    assert found.to_download == 0
    assert {model.revision for model in found.models} == {None}


@pytest.mark.skipif(sys.platform == "win32", reason="needs files with holes")
def test_memory_does_not_grow_with_the_models(tmp_path: Path, synthetic: ModuleType) -> None:
    options = MixOptions(threads=4)
    peaks = {
        model: check(str(synthetic.write_recipe(tmp_path, model, 2)[0]), options=options).peak_memory
        for model in ("llama-tiny", "llama-70b")
    }
    assert peaks["llama-tiny"] == peaks["llama-70b"] == 4 * (6 << 20)


def test_shapes_are_those_of_the_published_models(synthetic: ModuleType) -> None:
    counts = {name: sum(_numel(shape) for _, shape in shapes.tensors()) for name, shapes in synthetic.MODELS.items()}
    assert counts["llama-70b"] == 70_553_706_496
    assert counts["llama-405b"] == 405_853_388_800
    assert counts["deepseek-671b"] == 671_026_419_200


def _numel(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
