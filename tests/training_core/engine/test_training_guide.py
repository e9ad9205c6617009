"""The Python in docs/TRAINING.md runs as it stands, in order, in a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_snippets_of_the_guide_run(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "TRAINING.md").read_text()
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert code.count("import") > 10
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rows/s" in done.stdout
    assert "aten::addmm" in done.stdout
    assert (tmp_path / "runs").is_dir()
    assert list((tmp_path / "store" / "tensorboard").glob("by hand-*/events.*"))
