"""Whose convolutions are used: on processors that are not there, with timings that nobody took."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from htdg.config import HTDGConfig
from htdg.errors import UserError
from htdg.fast import choice, convolution, native
from htdg.fast.convolution import convolve

WITHOUT_AMX = "x86_64\nmodel name\t: Some\nflags\t\t: fpu avx2 fma avx512f avx512_bf16"
WITH_AMX = WITHOUT_AMX + " amx_bf16 amx_tile"


class Clock:
    """Stands in for the measurement: says how many times as fast PyTorch's are, and who asked."""

    def __init__(self, ratio):
        self.ratio, self.asked = ratio, []

    def __call__(self, dtype, inputs, outputs, side):
        self.asked.append((dtype, inputs, outputs, side))
        return self.ratio


@pytest.fixture(autouse=True)
def place(monkeypatch, tmp_path):
    """The folder where choices are kept, empty, on a processor with AMX and all its helpers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HTDG_CONVOLUTIONS", raising=False)
    monkeypatch.delenv("HTDG_KERNELS", raising=False)
    lanes = {f"winograd_lanes_{name}": lambda: 16 for name in ("float", "bf16")}
    monkeypatch.setattr(native, "library", lambda: SimpleNamespace(**lanes))
    use_processor(monkeypatch, WITH_AMX)
    yield tmp_path / "htdg"
    forget()


def forget():
    """As in the next process."""
    choice._file.cache_clear()
    choice._ratios.clear()


def use_processor(monkeypatch, text):
    forget()
    monkeypatch.setattr(choice, "processor", lambda: text)


def ours(clock, dtype=torch.bfloat16, inputs=64, outputs=64, pixels=5000):
    return choice.ours_is_faster(dtype, inputs, outputs, pixels, clock)


def use_threads(monkeypatch, number):
    monkeypatch.setattr(torch, "get_num_threads", lambda: number)


@pytest.mark.parametrize(
    ("ratio", "expected"), [(3.1, False), (1.01, False), (1.0, True), (0.4, True)]
)
def test_on_amx_the_faster_way_is_chosen_and_kept(ratio, expected, place):
    clock = Clock(ratio)
    assert [ours(clock) for _ in range(3)] == [expected] * 3
    # 5,000 pixels count as 2 ** 13, and are timed on a square of about as many.
    assert clock.asked == [(torch.bfloat16, 64, 64, 91)]
    (file,) = place.iterdir()
    assert json.loads(file.read_text()) == {"64 64 13": ratio}
    forget()
    later = Clock(1 / ratio)  # would choose the other way
    assert ours(later) is expected
    assert later.asked == []


def test_each_kind_of_convolution_is_measured_by_itself(place, monkeypatch):
    assert ours(Clock(2.0)) is False
    for other in ({"inputs": 32}, {"outputs": 55}, {"pixels": 9000}):
        clock = Clock(0.5)
        assert ours(clock, **other) is True
        assert len(clock.asked) == 1
    same_class = Clock(0.5)
    assert ours(same_class, pixels=8192) is False
    assert same_class.asked == []
    use_threads(monkeypatch, torch.get_num_threads() + 1)
    assert ours(Clock(0.5)) is True
    monkeypatch.undo()


@pytest.mark.parametrize(("pixels", "side"), [(1, 16), (256, 16), (257, 23), (10**9, 256)])
def test_very_small_and_very_large_ones_count_as_these(pixels, side):
    clock = Clock(2.0)
    ours(clock, pixels=pixels)
    assert clock.asked[0][-1] == side


def test_another_processor_is_measured_anew(place, monkeypatch):
    assert ours(Clock(2.0)) is False
    use_processor(monkeypatch, WITH_AMX + " more")
    assert ours(Clock(0.5)) is True
    assert len(list(place.iterdir())) == 2
    use_processor(monkeypatch, WITH_AMX)
    assert ours(Clock(0.5)) is False


def test_without_amx_and_in_float32_ours_are_used_unmeasured(place, monkeypatch):
    clock = Clock(5.0)
    assert ours(clock, dtype=torch.float32) is True
    use_processor(monkeypatch, WITHOUT_AMX)
    assert ours(clock) is True
    assert clock.asked == []
    assert not place.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[[1]]",
        "7",
        '{"64 64 13": "fast"}',
        '{"64 64 13": -1}',
        '{"64 64 13": NaN}',
        '{"64 13": 2.0}',
        '{"a b c": 2.0}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_file_is_measured_again(text, place):
    assert ours(Clock(0.5)) is True
    (file,) = place.iterdir()
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    forget()
    clock = Clock(2.0)
    assert ours(clock) is False
    assert len(clock.asked) == 1
    assert json.loads(file.read_text()) == {"64 64 13": 2.0}
    assert list(place.iterdir()) == [file]  # nothing half written stays


def test_what_another_process_kept_meanwhile_holds():
    class Slow(Clock):
        def __call__(self, *question):
            if len(choice._ratios) == 1 and not self.asked:  # the other process is faster
                path = next(iter(choice._ratios))
                choice._write(path, {"64 64 13": 0.5, "32 32 9": 4.0})
            return super().__call__(*question)

    assert ours(Slow(2.0)) is True
    assert ours(Clock(0.1), inputs=32, outputs=32, pixels=300) is False


def test_where_nothing_can_be_kept_ours_are_used(place, monkeypatch):
    def full(path, ratios):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(choice, "_write", full)
    clock = Clock(2.0)
    assert [ours(clock), ours(clock)] == [True, True]
    assert len(clock.asked) == 1
    forget()
    place.chmod(0o777)  # others may write there: not to be trusted
    assert ours(clock) is True
    assert len(clock.asked) == 1


def test_the_environment_decides_before_any_measurement(place, monkeypatch):
    clock = Clock(0.5)
    monkeypatch.setenv("HTDG_CONVOLUTIONS", "torch")
    assert [ours(clock), ours(clock, dtype=torch.float32)] == [False, False]
    monkeypatch.setenv("HTDG_CONVOLUTIONS", "ours")
    clock.ratio = 2.0
    assert [ours(clock), ours(clock, dtype=torch.float32)] == [True, True]
    assert clock.asked == []
    monkeypatch.setenv("HTDG_CONVOLUTIONS", "winograd")
    with pytest.raises(
        UserError, match='HTDG_CONVOLUTIONS is "winograd", but it must be "ours" or'
    ):
        ours(clock)


# --- With real convolutions ----------------------------------------------------------------------


def test_convolutions_go_the_way_that_was_chosen(monkeypatch):
    monkeypatch.undo()  # the real helpers
    if not native.lanes(torch.bfloat16):
        pytest.skip("no compiler, or no instructions for bfloat16 here: PyTorch's are used")
    layer = nn.Conv2d(32, 32, 3).bfloat16()
    x = torch.ones(1, 32, 20, 20, dtype=torch.bfloat16)
    for forced, name in (("ours", "_ConvolutionBackward"), ("torch", "ConvolutionBackward0")):
        monkeypatch.setenv("HTDG_CONVOLUTIONS", forced)
        assert type(convolve(layer, x).grad_fn).__name__ == name
    monkeypatch.delenv("HTDG_CONVOLUTIONS")
    questions = []

    def chosen(*question):
        questions.append(question[:-1])
        return False

    monkeypatch.setattr(choice, "ours_is_faster", chosen)
    assert type(convolve(layer, x).grad_fn).__name__ == "ConvolutionBackward0"
    assert questions == [(torch.bfloat16, 32, 32, 400)]


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_a_measurement_can_be_taken_anywhere(mode, monkeypatch):
    monkeypatch.undo()
    dtype = torch.bfloat16 if native.lanes(torch.bfloat16) else torch.float32
    if not native.lanes(dtype):
        pytest.skip("no compiler, or no instructions for convolutions here: PyTorch's are used")
    state = torch.get_rng_state()
    with mode(), torch.autocast("cpu", torch.bfloat16):
        ratio = convolution.times_as_fast(dtype, 32, 32, 16)
    assert 0 < ratio < 1000
    assert torch.get_rng_state().equal(state)  # training draws the same noise


# --- What is said of it --------------------------------------------------------------------------


def use_lanes(monkeypatch, floats, bf16):
    lanes = {"winograd_lanes_float": lambda: floats, "winograd_lanes_bf16": lambda: bf16}
    monkeypatch.setattr(native, "library", lambda: SimpleNamespace(**lanes))


@pytest.mark.parametrize(
    ("lanes", "line"),
    [
        ((16, 16), "compiled (AVX-512), bf16 convolutions: ours"),
        ((16, 0), "compiled (AVX-512), bf16 convolutions: PyTorch's"),
        ((8, 0), "compiled (AVX2), bf16 convolutions: PyTorch's"),
        ((0, 0), "compiled (plain C), convolutions: PyTorch's"),
    ],
)
def test_a_line_for_every_variant(lanes, line, monkeypatch):
    use_processor(monkeypatch, WITHOUT_AMX)
    use_lanes(monkeypatch, *lanes)
    assert choice.describe_choices() == line


def test_a_line_for_what_was_measured():
    start = "compiled (AVX-512), bf16 convolutions: "
    unmeasured = "the faster ones, to be measured when they are first used"
    assert choice.describe_choices() == start + unmeasured
    ours(Clock(9.0), pixels=500)  # of the smaller ones nothing is said
    ours(Clock(3.14))
    assert choice.describe_choices() == start + "PyTorch's, measured 3.1 times as fast at width 64"
    ours(Clock(0.5), inputs=32, outputs=32)
    forget()
    assert choice.describe_choices() == (
        start + "ours, measured 2.0 times as fast at width 32; "
        "PyTorch's, measured 3.1 times as fast at width 64"
    )


def test_a_line_for_what_the_environment_decides(monkeypatch):
    for forced, line in (
        ("torch", "compiled (AVX-512), convolutions: PyTorch's, as HTDG_CONVOLUTIONS says"),
        ("ours", "compiled (AVX-512), bf16 convolutions: ours, as HTDG_CONVOLUTIONS says"),
    ):
        monkeypatch.setenv("HTDG_CONVOLUTIONS", forced)
        assert choice.describe_choices() == line


@pytest.mark.parametrize(
    ("missing", "kernels", "line"),
    [
        ("there is no C compiler", "1", "PyTorch's operations: there is no C compiler"),
        ("", "0", "PyTorch's operations: HTDG_KERNELS is 0"),
        ("", "1", "PyTorch's operations: compiled helpers are for Linux only"),
    ],
)
def test_a_line_for_missing_helpers(missing, kernels, line, monkeypatch):
    monkeypatch.setattr(native, "library", lambda: None)
    monkeypatch.setattr(native, "missing", lambda: missing)
    monkeypatch.setenv("HTDG_KERNELS", kernels)
    assert choice.describe_choices() == line


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "with compiled helpers, convolutions: ours"),
        (
            {"precision": "bf16"},
            "with compiled helpers, convolutions: "
            "PyTorch's, measured 3.1 times as fast at width 64",
        ),
        ({"fast": False}, "without compiled helpers"),
        ({"evidence": "distance"}, "without compiled helpers"),
    ],
)
def test_a_model_says_whose_convolutions_trained_it(options, said):
    ours(Clock(3.14))
    config = HTDGConfig.preset("tutorial", **options)
    assert choice.describe_training(torch.device("cpu"), config) == said
    assert choice.describe_training(torch.device("cuda"), config) == "without compiled helpers"


def test_a_model_says_what_the_environment_decided(monkeypatch):
    cpu, config = torch.device("cpu"), HTDGConfig.preset("tutorial")
    monkeypatch.setenv("HTDG_CONVOLUTIONS", "torch")
    said = "with compiled helpers, convolutions: PyTorch's, as HTDG_CONVOLUTIONS says"
    assert choice.describe_training(cpu, config) == said
    monkeypatch.setattr(native, "library", lambda: None)
    assert choice.describe_training(cpu, config) == "without compiled helpers"
