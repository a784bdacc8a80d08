"""Devices and precision: what is taken, and what is refused when it is not there."""

import pytest
import torch

from htdg import ConfigError, HTDGDetector
from htdg.runtime.device import machine, reproducible, resolve_device, resolve_precision
from tests.models import QUIET

REFUSAL = "Option device is '{}', but PyTorch finds no such device here: use 'cpu', or 'auto'"


@pytest.fixture
def no_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.usefixtures("no_accelerator")
@pytest.mark.parametrize("device", ["cuda", "cuda:3", "mps"])
def test_a_device_that_is_not_there_is_refused(device, brick, tiny, tmp_path):
    with pytest.raises(ConfigError, match=REFUSAL.format(device)):
        resolve_device(device)
    detector = HTDGDetector("tiny", device=device)
    with pytest.raises(ConfigError, match=REFUSAL.format(device)):
        detector.fit(brick[0][0], **QUIET)
    assert not hasattr(detector, "model_")
    tiny.save(tmp_path / "model")
    with pytest.raises(ConfigError, match=REFUSAL.format(device)):
        HTDGDetector.load(tmp_path / "model", device=device)


@pytest.mark.usefixtures("no_accelerator")
def test_without_an_accelerator_the_best_is_the_processor():
    assert resolve_device("auto") == torch.device("cpu")


def test_the_best_device_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ConfigError, match="cuda:1"):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto").type == "mps"


def test_precision_follows_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    cpu, cuda, mps = (torch.device(d) for d in ("cpu", "cuda", "mps"))
    assert [resolve_precision("auto", d) for d in (cpu, cuda, mps)] == [
        "float32",
        "bf16",
        "float32",
    ]
    assert resolve_precision("bf16", mps) == "float32"
    assert resolve_precision("bf16", cpu) == "bf16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert resolve_precision("auto", cuda) == "float32"


def test_a_processor_is_named_with_the_vectors_that_are_used(monkeypatch):
    cpu, names = torch.device("cpu"), {}
    for vectors in ("AVX2", "AVX512", "DEFAULT", "NO AVX"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=vectors: name)
        names[vectors] = machine(cpu)
    assert names["DEFAULT"] == names["NO AVX"]
    bare, rest = names["DEFAULT"].split(",", 1)
    assert names["AVX2"] == f"{bare} (AVX2),{rest}"
    assert names["AVX512"] == f"{bare} (AVX512),{rest}"


def test_a_detector_says_where_it_is(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    loaded = HTDGDetector.load(tmp_path / "model", device="cpu")
    assert loaded.device_ == torch.device("cpu")
    assert loaded.config_.device == "cpu"
    assert all(scale.z_star.device.type == "cpu" for scale in loaded.scales_)


@pytest.mark.parametrize("tf32", [True, False])
def test_whether_convolutions_may_be_in_tf32_is_left_to_the_user(tf32, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    with reproducible():
        assert torch.backends.cudnn.allow_tf32 == tf32
        assert torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.allow_tf32 == tf32
