"""Processes that are forked after their parent has computed with several threads."""

import os
import subprocess
import sys

import pytest

# The parent computes with two threads; its children would wait for theirs for ever.
SCRIPT = """
import multiprocessing, warnings
import numpy as np, torch
from htdg import HTDGDetector

def work(what):
    warnings.simplefilter("always")
    with warnings.catch_warnings(record=True) as caught:
        if what == "score":
            result = detector.anomaly_score([image])[0]
        elif what == "sample":
            result = float(detector.sample(1).sum())
        else:
            other = HTDGDetector("tiny", niter=2).fit([image], progress=False)
            result = other.anomaly_score([image])[0]
    return float(result), [str(w.message) for w in caught], torch.get_num_threads()

if __name__ == "__main__":
    torch.set_num_threads(2)
    image = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    detector = HTDGDetector("tiny", niter=2, image_size=64, min_size=56, max_size=64)
    detector.fit([image], progress=False)
    assert torch.get_num_threads() == 2
    here = [work(what)[0] for what in ("score", "sample", "fit")]
    for what, expected in zip(("score", "sample", "fit"), here):
        with multiprocessing.get_context("fork").Pool(1) as pool:
            there, messages, threads = pool.apply_async(work, [what]).get(60)
        assert abs(there - expected) < 1e-3 * abs(expected), (what, there, expected)
        assert threads == 1 and len(messages) == 1 and "forked" in messages[0], messages
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")
def test_a_forked_process_does_not_hang(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # Where other tests have the cores, spinning threads would delay each other.
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "GOMP_SPINCOUNT": "1000"},
        timeout=240,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
