"""Where memory runs out, that is said: it is no damage to a file, and no traceback."""

import errno

import pytest
import safetensors.torch

from htdg import HTDGDetector, ImageError, ModelError
from htdg.commands.cli import NO_MEMORY, main
from htdg.errors import is_out_of_memory
from htdg.io import images
from htdg.io.official_files import read_file

#: As Python, C++, PyTorch on a CPU and on a GPU, and the system say it.
SPENT = [
    MemoryError(),
    RuntimeError("std::bad_alloc"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
OTHER = [
    RuntimeError("shapes differ"),
    OSError(errno.ENOSPC, "No space left on device"),
    KeyError(),
]


def test_what_says_that_memory_ran_out():
    assert [error for error in SPENT if not is_out_of_memory(error)] == []
    assert [error for error in OTHER if is_out_of_memory(error)] == []


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.mark.parametrize("error", SPENT[:-1], ids=repr)
def test_a_command_says_so_in_a_sentence(error, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("htdg.commands.info.execute", raising(error))
    assert main(["info", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"htdg: {NO_MEMORY}\n"


def test_other_faults_in_a_command_keep_their_traceback(monkeypatch, tmp_path):
    monkeypatch.setattr("htdg.commands.info.execute", raising(OTHER[0]))
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["info", str(tmp_path)])


@pytest.mark.parametrize("error", SPENT, ids=repr)
def test_a_model_that_does_not_fit_is_not_called_damaged(error, tiny, tmp_path, monkeypatch):
    tiny.save(tmp_path / "model")
    monkeypatch.setattr(safetensors.torch, "load_file", raising(error))
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        HTDGDetector.load(tmp_path / "model")
    assert not isinstance(caught.value, ModelError)
    assert is_out_of_memory(caught.value)


def test_an_official_file_that_does_not_fit_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / "Zs.pth").write_bytes(b"x")
    monkeypatch.setattr("torch.load", raising(MemoryError()))
    with pytest.raises(MemoryError):
        read_file(tmp_path / "Zs.pth")


def test_an_image_that_does_not_fit_costs_no_other(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.setattr(images, "open_image", raising(MemoryError()))
    with pytest.raises(ImageError, match=r"a\.png does not fit into memory: make it smaller"):
        images.load_image(tmp_path / "a.png")
