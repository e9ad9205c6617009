"""The Python in docs/ENSEMBLES.md runs as it stands, in order, in a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_snippets_of_the_ensemble_guide_run(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "ENSEMBLES.md").read_text()
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert code.count("fit_ensemble") == 2
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    program = tmp_path / "guide.py"
    program.write_text(f"def main():\n{re.sub(r'^', '    ', code, flags=re.MULTILINE)}\n\nmain()\n")
    command = [sys.executable, str(program)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.strip().splitlines()[-1]) > 0.8, "the estimator predicts digits"
