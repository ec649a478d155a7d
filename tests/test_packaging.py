"""An installed ramen, with nothing of the clone beside it: its config is found, its kernels are built, a run is made."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("ramen", "conf", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of site-packages that holds the wheel of this clone."""
    pytest.importorskip("setuptools", minversion="77")
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "target"))
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source], check=True)
    subprocess.run([*pip, "install", "--no-deps", "--target", target, *wheels.glob("*.whl")], check=True)
    return target


def test_the_wheel_holds_all_that_a_run_reads(installed: Path) -> None:
    found = {path.relative_to(installed / "ramen") for path in (installed / "ramen").rglob("*") if path.is_file()}
    for folder, pattern, place in (
        ("conf", "*.yaml", "conf"),
        ("ramen", "*.c", ""),
        ("ramen", "*.h", ""),
        ("ramen", "*.jinja", ""),
    ):
        files = {place / path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob(pattern)}
        assert files and files - found == set()
    assert Path("py.typed") in found


def test_a_run_needs_no_clone(installed: Path, tmp_path: Path, small: tuple[str, ...]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def python(*words: str) -> str:
        command = [sys.executable, "-P", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    ramen = str(installed / "bin" / "ramen")
    told = python(ramen, "train", "experiment=demo", "optimizer=bam", "mlp=nff", *small, "hydra.run.dir=run")
    assert "finished after 6 steps" in told
    assert python(ramen, "sample", "run", "--tokens", "3") and python(ramen, "compare", "run")
    weights = "[torch.nn.Parameter(torch.ones(2, 3))]"
    script = f"import ramen, torch; ramen.optimizer('normuon', {weights}, lr=0.02); print(ramen.__file__)"
    assert python("-c", script).startswith(str(installed))
