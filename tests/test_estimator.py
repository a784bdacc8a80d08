"""``HTDGDetector`` as a scikit-learn estimator: its rules, its tools, and its own checks."""

import copy
import inspect
import json
import os
import pickle
import random
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import sklearn.exceptions
import torch
from joblib import Parallel, delayed
from PIL import Image
from sklearn.base import clone, is_outlier_detector
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks
from sklearn.utils.validation import check_is_fitted

from htdg import ConfigError, HTDGConfig, HTDGDetector, NotFittedError
from htdg.thresholds import HELD_OUT, Threshold
from htdg.transformations import CATALOGUE
from htdg.votes import anomaly_scores
from tests.models import QUIET, Stop, same_weights, stop_at

OPTIONS = [field.name for field in fields(HTDGConfig)]


@pytest.fixture
def calibrated(tiny, brick):
    """The detector ``tiny`` with a threshold that some of the test images exceed."""
    detector = HTDGDetector.from_model(tiny.model_)
    detector.calibrate(brick[1][:3], 0.5, defect_fraction=0.2)
    return detector


# --- Constructor and parameters -----------------------------------------------------------------


def test_every_option_is_an_argument_by_name():
    parameters = inspect.signature(HTDGDetector).parameters
    assert list(parameters) == ["config", *OPTIONS]
    assert all(parameters[name].default is None for name in OPTIONS)
    assert all(parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name in OPTIONS)
    assert HTDGDetector().config == "tutorial"


def test_arguments_are_kept_untouched_whatever_they_are():
    values = {name: object() for name in ["config", *OPTIONS]}
    detector = HTDGDetector(**values)
    assert vars(detector).keys() == values.keys()
    assert all(getattr(detector, name) is value for name, value in values.items())
    assert detector.get_params() == values


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"config": "fast"}, "Option preset is 'fast', but it must be one of paper_rgb, "),
        ({"config": 42}, "config is 42, but it must be the name of a preset or an HTDGConfig."),
        ({"niter": 0}, "Option niter is 0, but it must be a whole number, at least 1."),
        ({"niter": 2.5}, "Option niter is 2.5, but it must be a whole number, at least 1."),
        ({"lr_d": "fast"}, "Option lr_d is 'fast', but it must be a number, above 0"),
        ({"min_size": 30}, "Option max_size is 20, but it must be at least min_size, which is 30."),
        ({"device": "tpu"}, "Option device is 'tpu', but it must be 'auto', 'cpu',"),
        ({"transformations": []}, "Option transformations is [], but it must be a list of"),
        ({"fast": 1}, "Option fast is 1, but it must be True or False."),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused_by_fit_and_no_sooner(options, sentence, brick):
    detector = HTDGDetector(**{"config": "tiny", **options})
    clone(detector)
    repr(detector)
    for ask in (detector.resolved_config, lambda: detector.fit(brick[0][0], **QUIET)):
        with pytest.raises(ConfigError) as refused:
            ask()
        assert sentence in str(refused.value)
        assert "\n" not in str(refused.value)
    assert not hasattr(detector, "model_")


def test_options_may_come_from_preset_config_and_names_alike(brick):
    expected = HTDGConfig.preset("tiny", niter=2, seed=3, translation="pixel")
    forms = [
        HTDGDetector(expected),
        HTDGDetector("tiny", niter=2, seed=3, translation="pixel"),
        HTDGDetector(config="tiny", niter=2, seed=3, translation="pixel"),
        HTDGDetector(HTDGConfig.preset("tiny", niter=2), seed=3, translation="pixel"),
        HTDGDetector(HTDGConfig.preset("tiny", niter=9, seed=9), niter=2, seed=3).set_params(
            translation="pixel"
        ),
        HTDGDetector().set_params(config=expected),
    ]
    assert [form.resolved_config() for form in forms] == [expected] * len(forms)
    first, *others = [form.fit(brick[0][0], **QUIET) for form in forms[:4]]
    assert all(same_weights(first, other) for other in others)
    assert all(form.config_ == expected for form in forms[:4])


def test_none_leaves_an_option_as_it_is():
    config = HTDGConfig.preset("tiny", seed=7)
    assert HTDGDetector(config, seed=None).resolved_config() == config
    assert HTDGDetector(config, seed=0).resolved_config().seed == 0
    assert HTDGDetector(config, fast=False).resolved_config().fast is False


def test_parameters_are_read_and_set():
    detector = HTDGDetector("tiny", niter=5)
    parameters = detector.get_params()
    assert parameters == {**dict.fromkeys(OPTIONS), "config": "tiny", "niter": 5}
    assert detector.set_params(niter=6, lr_d=0.1) is detector
    assert (detector.niter, detector.lr_d) == (6, 0.1)
    assert repr(detector) == "HTDGDetector(config='tiny', lr_d=0.1, niter=6)"
    with pytest.raises(ValueError, match="Invalid parameter 'iterations'"):
        detector.set_params(iterations=3)


def test_setting_parameters_leaves_what_is_trained(tiny, brick):
    detector = HTDGDetector.from_model(tiny.model_).set_params(niter=9, translation="pixel")
    assert (detector.config_.niter, detector.config_.translation) == (3, "resampled")
    np.testing.assert_array_equal(detector.score_samples(brick[1]), tiny.score_samples(brick[1]))


def test_a_clone_has_the_parameters_and_is_not_trained(tiny, brick, tmp_path):
    again = clone(tiny)
    assert again.get_params() == tiny.get_params()
    with pytest.raises(NotFittedError):
        again.score_samples(brick[1][0])
    assert same_weights(again.fit(brick[0][0], **QUIET), tiny)
    tiny.save(tmp_path / "model")
    loaded = clone(HTDGDetector.load(tmp_path / "model", device="cpu"))
    assert loaded.resolved_config() == tiny.config_.with_options(device="cpu")


# --- What fit leaves behind ---------------------------------------------------------------------


def test_what_is_fitted_ends_in_an_underscore(brick):
    detector = HTDGDetector("tiny", niter=1)
    before = set(vars(detector))
    with pytest.raises(sklearn.exceptions.NotFittedError):
        check_is_fitted(detector)
    assert detector.fit(brick[0][0], **QUIET) is detector
    check_is_fitted(detector)
    assert set(vars(detector)) - before == {"model_", "device_", "evidence_"}
    detector.calibrate(brick[1][:2])
    detector.predict(brick[1])
    detector.sample(1)
    assert set(vars(detector)) - before == {"model_", "device_", "offset_", "evidence_"}
    public = {
        *("config_", "sides_", "scales_", "transformations_", "images_", "image_names_"),
        *("history_", "threshold_", "images_at_once_", "trained_with_", "training_seconds_"),
        "has_generator_",
    }
    properties = {name for name, value in vars(HTDGDetector).items() if isinstance(value, property)}
    assert properties == public
    for old in ("scales", "sides", "images", "history", "threshold", "judge"):
        assert not hasattr(detector, old)


def test_labels_are_taken_and_not_used(brick, tiny):
    assert same_weights(HTDGDetector("tiny").fit([brick[0][0]], ["anything"], **QUIET), tiny)
    with pytest.raises(TypeError):
        HTDGDetector("tiny").fit([brick[0][0]], None, False)


def test_a_broken_off_fit_is_no_fit(brick):
    detector = HTDGDetector("tiny", niter=1).fit(brick[0][0], **QUIET)
    detector.calibrate(brick[1][:1])
    with pytest.raises(Stop):
        detector.fit(brick[0][1], callback=stop_at(1, 1), **QUIET)
    assert vars(detector).keys() == {"config", *OPTIONS}
    with pytest.raises(sklearn.exceptions.NotFittedError):
        check_is_fitted(detector)


#: In a process of its own: everything from the first import of htdg to a decision.
THE_PROCESS = """
import ctypes, gc, locale, os, random, signal, sys, warnings
import numpy as np
import scipy, sklearn.base, torch

torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # PyTorch imports more for the first one
functions, looked_up = [], ctypes.CDLL.__getitem__

def recording(library, name):
    functions.append(name)
    return looked_up(library, name)

ctypes.CDLL.__getitem__ = recording
torch.set_num_threads(3)


def settings():
    cudnn = torch.backends.cudnn
    return {
        "blocked modules": sorted(name for name, module in sys.modules.items() if module is None),
        "garbage collection": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "search path": list(sys.path),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default type": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "precision of products": torch.get_float32_matmul_precision(),
        "cuDNN": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
        "reproducible": torch.are_deterministic_algorithms_enabled(),
        "smallest numbers": sys.float_info.min / 2,  # 0 where they are flushed
        "NumPy's errors": np.geterr(),
        "PyTorch's random numbers": torch.get_rng_state().tolist(),
        "NumPy's random numbers": repr(np.random.get_state()),
        "Python's random numbers": random.getstate(),
        "warnings": list(warnings.filters),
        "locale": locale.setlocale(locale.LC_ALL),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "hooks": (sys.excepthook, sys.displayhook, sys.stdout, sys.stderr),
    }


before = settings()
image = (np.random.default_rng(0).random((24, 24)) * 255).astype(np.uint8)

from htdg import HTDGDetector

detector = HTDGDetector("tiny", niter=1, device="cpu")
detector.fit(image)
detector.calibrate([image.T, image[::-1]])
print(detector.predict([image, image.T]).tolist())
detector.save(sys.argv[1])
HTDGDetector.load(sys.argv[1], device="cpu").sample(1)
after = settings()
for name in before:
    if before[name] != after[name]:
        print(f"changed: {name}: {before[name]} -> {after[name]}")
if "mallopt" in functions:
    print("changed: the allocator")
"""


def in_a_process(script, *arguments):
    """Run a script; what it prints.

    Of the environment it gets no more than it needs: htdg, which this process has imported, could
    have set the rest already.
    """
    needed = ("PATH", "HOME", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "XDG_CACHE_HOME")
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={name: os.environ[name] for name in needed if name in os.environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_process_stays_as_it_is(tmp_path):
    """By itself, since most of it would happen once, when htdg is imported."""
    predictions, *changes = in_a_process(THE_PROCESS, tmp_path / "model").splitlines()
    assert len(json.loads(predictions)) == 2
    assert changes == []


def test_the_allocator_is_seen_where_it_is_set():
    """The test above would see it."""
    setting = "from htdg.runtime.device import keep_freed_memory; keep_freed_memory()"
    start = THE_PROCESS[: THE_PROCESS.index("before =")]
    seen = in_a_process(f"{start}{setting}\nprint('mallopt' in functions)")
    assert seen.strip() == str(sys.platform.startswith("linux"))


@pytest.mark.parametrize("method", ["htdg", "geom", "mse"])
def test_random_numbers_of_the_process_stay_as_they_are(method, brick, tmp_path):
    def states():
        return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()

    options = {"niter": 1, "geom_samples": 2, "geom_epochs": 1}
    before = states()
    detector = HTDGDetector("tiny", method=method, **options).fit(brick[0][0], **QUIET)
    assert states() == before
    detector.save(tmp_path / "model")
    HTDGDetector.load(tmp_path / "model", device="cpu").predictions(brick[1][:1])
    assert states() == before
    if method != "mse":
        detector.sample(1)
        detector.reconstruct()
        detector.calibrate("generated", n_generated=2)
        assert states() == before


# --- Scores and decisions -----------------------------------------------------------------------


@pytest.mark.parametrize("m", [3, 4, 42, 54])
def test_the_image_that_sets_the_threshold_is_normal(m, tiny):
    """Whatever rounding does: the limit is exceeded only by more than it."""
    rng = np.random.default_rng(m)
    for normality in rng.uniform(0, m, (500, 3)):  # of three scales
        score = float(anomaly_scores(normality, m))
        state = replace(
            tiny.model_,
            transformations=CATALOGUE[:m],
            threshold=Threshold(score, 0.5, 0.05, 20, HELD_OUT, None),
        )
        offset = HTDGDetector.from_model(state).offset_
        assert normality.mean() - offset >= 0
        assert normality.mean() * (1 - 1e-9) - offset < 0


def test_scores_decisions_and_predictions_agree(calibrated, brick):
    images = [*brick[0], *brick[1]]
    normality = calibrated.score_samples(images, 0.2)
    decision = calibrated.decision_function(images)
    predictions = calibrated.predict(images)
    assert decision.shape == predictions.shape == (len(images),)
    assert predictions.dtype.kind == "i"
    np.testing.assert_array_equal(decision, normality - calibrated.offset_)
    np.testing.assert_array_equal(predictions, np.where(decision < 0, -1, 1))
    # As htdg score decides.
    anomalous = calibrated.anomaly_score(images, 0.2) > calibrated.threshold_.score
    np.testing.assert_array_equal(predictions == -1, anomalous)
    assert {*predictions} == {-1, 1}
    # Those that set the threshold: one of three exceeds it at a rate of a half.
    assert calibrated.predict(brick[1][:3]).tolist().count(-1) == 1
    m = len(calibrated.transformations_)
    assert calibrated.offset_ == pytest.approx(m * (1 - calibrated.threshold_.score), abs=1e-9)


def test_options_of_scoring_reach_it(calibrated, brick, capsys):
    expected = calibrated.predict(brick[1])
    assert calibrated.predict(brick[1], batch_size=1, progress=True).tolist() == expected.tolist()
    assert "scoring" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="batch_size is 0"):
        calibrated.decision_function(brick[1], batch_size=0)


def test_an_uncalibrated_detector_says_what_to_do(tiny, brick):
    for ask in (tiny.predict, tiny.decision_function):
        with pytest.raises(NotFittedError) as refused:
            ask(brick[1])
        assert isinstance(refused.value, sklearn.exceptions.NotFittedError)
        assert isinstance(refused.value, RuntimeError)  # what it was before
        assert str(refused.value) == (
            "This detector has no threshold: call calibrate(images) with normal images that did "
            "not train."
        )


def test_fit_predict(brick):
    images, held_out = [brick[0][0], brick[1][5]], brick[1][:3]
    options = {"false_positive_rate": 0.5, "defect_fraction": 0.2}
    detector = HTDGDetector("tiny")
    predictions = detector.fit_predict(images, held_out=held_out, **options, **QUIET)
    expected = HTDGDetector("tiny").fit(images, **QUIET)
    expected.calibrate(held_out, *options.values())
    assert predictions.tolist() == expected.predict(images).tolist()
    assert detector.threshold_ == expected.threshold_
    named = HTDGDetector("tiny").fit_predict(images, [1, 1], held_out=held_out, names="ab", **QUIET)
    assert named.shape == (2,)


def test_fit_predict_needs_held_out_images(brick):
    detector = HTDGDetector("tiny")
    for wrong in ((brick[0][0],), (brick[0][0], [1])):
        with pytest.raises(NotFittedError, match="give them as held_out, or call fit, calibrate"):
            detector.fit_predict(*wrong)
    assert not hasattr(detector, "model_")  # said before anything is trained


# --- Other tools of scikit-learn ----------------------------------------------------------------


def test_it_is_an_outlier_detector_of_images():
    detector = HTDGDetector("tiny")
    assert is_outlier_detector(detector)
    tags = detector.__sklearn_tags__()
    assert tags.estimator_type == "outlier_detector"
    assert tags.input_tags.three_d_array
    assert not tags.input_tags.two_d_array
    assert not tags.target_tags.required


def halved(images):
    return [np.asarray(Image.fromarray(image).resize((48, 48))) for image in images]


def test_in_a_pipeline(brick):
    steps = [("smaller", FunctionTransformer(halved)), ("detector", HTDGDetector("tiny", niter=1))]
    pipeline = Pipeline(steps).set_params(detector__niter=2)
    pipeline.fit(brick[0], detector__progress=False)
    alone = HTDGDetector("tiny", niter=2).fit(halved(brick[0]), **QUIET)
    expected = alone.score_samples(halved(brick[1]))
    np.testing.assert_array_equal(pipeline.score_samples(brick[1]), expected)
    with pytest.raises(sklearn.exceptions.NotFittedError) as caught:
        pipeline.predict(brick[1])
    # scikit-learn 1.6 raises one of its own from ours.
    assert isinstance(caught.value.__cause__ or caught.value, NotFittedError)
    for detector in (pipeline["detector"], alone):
        detector.calibrate(halved(brick[1][:2]), 0.5)
    assert pipeline.predict(brick[1]).tolist() == alone.predict(halved(brick[1])).tolist()
    decision = pipeline.decision_function(brick[1])
    np.testing.assert_array_equal(decision, alone.decision_function(halved(brick[1])))
    assert not hasattr(clone(pipeline)["detector"], "model_")


def auroc(detector, images, anomalous):
    return roc_auc_score(anomalous, -detector.score_samples(images))


def mean_normality(detector, images, y=None):
    return detector.score_samples(images).mean()


def test_a_grid_search_over_iterations(brick):
    images, anomalous = [*brick[0], *brick[1]], [0, 0, 0, 0, 1, 1, 1, 1]
    splits = [([0], [2, 3, 4, 5]), ([1], [3, 4, 6, 7])]  # trained on normal images alone
    search = GridSearchCV(
        HTDGDetector("tiny"), {"niter": [1, 3]}, scoring=auroc, cv=splits, refit=False
    )
    search.fit(images, anomalous, **QUIET)
    for niter, score in zip([1, 3], search.cv_results_["mean_test_score"], strict=True):
        scores = []
        for train, test in splits:
            detector = HTDGDetector("tiny", niter=niter).fit([images[i] for i in train], **QUIET)
            scores.append(auroc(detector, [images[i] for i in test], [anomalous[i] for i in test]))
        assert score == pytest.approx(np.mean(scores))


def test_a_grid_search_without_labels_refits_the_best(brick):
    grid = {"niter": np.array([1, 2])}
    search = GridSearchCV(HTDGDetector("tiny"), grid, scoring=mean_normality, cv=KFold(2))
    search.fit(list(brick[0]), **QUIET)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = HTDGDetector("tiny", **search.best_params_).fit(brick[0], **QUIET)
    assert same_weights(search.best_estimator_, best)
    np.testing.assert_array_equal(search.score_samples(brick[1]), best.score_samples(brick[1]))


# --- Copies and other processes -----------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_a_copy_scores_the_same_and_is_independent(calibrated, brick, copied):
    again = copied(calibrated)
    assert again.get_params() == calibrated.get_params()
    assert same_weights(again, calibrated)
    np.testing.assert_array_equal(
        again.decision_function(brick[1]), calibrated.decision_function(brick[1])
    )
    assert torch.equal(again.sample(2), calibrated.sample(2))
    assert again.threshold_ == calibrated.threshold_
    again.calibrate(brick[1], 0.3)
    assert again.threshold_ != calibrated.threshold_
    again.scales_[0].z_star.zero_()
    assert not same_weights(again, calibrated)


def test_an_untrained_detector_is_copied_too():
    detector = HTDGDetector("tiny", niter=5)
    for again in (
        copy.copy(detector),
        copy.deepcopy(detector),
        pickle.loads(pickle.dumps(detector)),
    ):
        assert again.get_params() == detector.get_params()


def test_in_several_processes(calibrated, brick):
    images = brick[1][:2]
    tasks = [
        delayed(calibrated.predict)(images),
        delayed(calibrated.score_samples)(images),
        delayed(HTDGDetector("tiny").fit)(brick[0][0], **QUIET),
    ]
    predictions, scores, trained = Parallel(n_jobs=2, backend="loky")(tasks)
    np.testing.assert_array_equal(predictions, calibrated.predict(images))
    # Threads of another number may add up in another order.
    np.testing.assert_allclose(scores, calibrated.score_samples(images), atol=1e-6)
    here = HTDGDetector("tiny").fit(brick[0][0], **QUIET)
    assert trained.config_ == here.config_
    np.testing.assert_allclose(trained.score_samples(images), here.score_samples(images), atol=1e-3)


# --- NumPy's numbers ----------------------------------------------------------------------------

INTEGERS = {
    "image_size": 22,
    "min_size": 14,
    "max_size": 20,
    "channels": 4,
    "layers": 4,
    "niter": 2,
    "d_steps": 1,
    "g_steps": 1,
    "milestone_d": 1,
    "milestone_g": 1,
    "seed": 3,
    "images_at_once": 1,
    "distance_min_size": 14,
    "distance_max_size": 20,
    "patch_side": 5,
    "geom_samples": 5,
    "geom_epochs": 2,
}
REALS = {
    "scale_factor": 0.5,
    "lr_d": 0.25,
    "lr_g": 0.125,
    "beta1": 0.5,
    "beta2": 0.75,
    "gamma": 0.5,
    "alpha": 64.0,
    "noise_amplitude": 0.25,
    "patch_constant": 0.5,
    "high_pass": 0.5,
    "search_radius": 0.5,
}


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("real", [np.float64, np.float32, np.float16])
def test_numpy_s_numbers_are_as_good_as_python_s(integer, real):
    """The reals are sums of few powers of two: the same in every precision."""
    expected = HTDGConfig.preset("tiny", **INTEGERS, **REALS)
    options = {name: integer(value) for name, value in INTEGERS.items()}
    options |= {name: real(value) for name, value in REALS.items()}
    detector = HTDGDetector("tiny", **options)
    assert detector.get_params()["niter"] is options["niter"]
    config = detector.resolved_config()
    assert config == expected
    for name in INTEGERS:
        assert type(getattr(config, name)) is int
    for name in REALS:
        assert type(getattr(config, name)) is float


def test_numpy_s_numbers_train_and_score(brick, tmp_path):
    options = {"niter": np.int64(2), "lr_d": np.float32(0.001), "seed": np.uint8(4)}
    rows = np.array([[0, 0, 0, 0, 0], [0, 1, 0, 0, 1]])
    detector = HTDGDetector("tiny", **options, transformations=rows, milestone_d=np.int64(1))
    detector.fit(brick[0][0], checkpoint_seconds=np.float64(60), **QUIET)
    options = {"niter": 2, "lr_d": float(np.float32(0.001)), "seed": 4, "milestone_d": 1}
    plain = HTDGDetector("tiny", transformations=rows.tolist(), **options)
    plain.fit(brick[0][0], **QUIET)
    assert same_weights(detector, plain)
    detector.save(tmp_path / "model")  # what is kept is what JSON knows
    expected = plain.anomaly_score(brick[1], float(np.float32(0.05)), batch_size=2)
    scores = detector.anomaly_score(brick[1], np.float32(0.05), batch_size=np.int64(2))
    np.testing.assert_array_equal(scores, expected)
    held_out = brick[1][:3]
    rate = np.float64(0.5)
    predictions = detector.fit_predict(
        brick[0][0], held_out=held_out, false_positive_rate=rate, **QUIET
    )
    assert predictions.tolist() == [1]
    assert detector.threshold_ == plain.calibrate(held_out, 0.5)


# --- scikit-learn's own checks ------------------------------------------------------------------

#: Those that need no data, on the detector itself.
OF_THE_CLASS = [
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_unfitted",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
]
TABLE = "is about the form of a table of numbers; images have messages of their own (test_images)"
FEATURES = "asks for the number of features, which images do not have"
NEEDS_HELD_OUT = "calls fit_predict without held-out images, which is refused (above)"
#: Those that do not apply to images, and why; all others must pass.
NOT_FOR_IMAGES = {
    "check_complex_data": TABLE,
    "check_estimator_sparse_array": TABLE,
    "check_estimator_sparse_matrix": TABLE,
    "check_estimator_sparse_tag": TABLE,
    "check_estimators_empty_data_messages": TABLE,
    "check_estimators_nan_inf": TABLE,
    "check_fit1d": TABLE,
    "check_fit2d_predict1d": TABLE,
    "check_fit_score_takes_y": NEEDS_HELD_OUT,
    "check_n_features_in": FEATURES,
    "check_n_features_in_after_fitting": FEATURES,
    "check_outliers_fit_predict": NEEDS_HELD_OUT,
}
#: Those that scikit-learn leaves out where something is not installed or not set.
MAY_BE_SKIPPED = {"check_array_api_input", "check_classifier_data_not_an_array"}

TEXTURE = np.random.default_rng(0).random((12, 12))


def images_of(rows):
    """An image (12, 12) in [0, 1] for each row of a table of numbers."""
    rows = np.asarray(rows, dtype=float)
    return [TEXTURE / 2 + np.resize(1 / (1 + np.exp(-row)), (12, 12)) / 2 for row in rows]


class OfRows(HTDGDetector):
    """A detector that scikit-learn's checks can use: they bring tables, whose rows are images here.

    It also calibrates with what it is trained on, so that it predicts.
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = True, False
        return tags

    def fit(self, X, y=None):
        images = images_of(X)
        super().fit(images[:2], y, progress=False)
        self.columns_ = np.asarray(X).shape[1]
        self.calibrate(images)
        return self

    def predictions(self, rows, *arguments, **options):
        check_is_fitted(self)
        if np.asarray(rows).shape[1] != self.columns_:
            raise ValueError("another table than that of fit")
        return super().predictions(images_of(rows), *arguments, **options)


@pytest.mark.parametrize("check", OF_THE_CLASS)
def test_a_check_of_scikit_learn_on_the_class(check):
    getattr(estimator_checks, check)("HTDGDetector", HTDGDetector("tiny", niter=1))


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_all_checks_of_scikit_learn_that_apply_to_images():
    sizes = {"image_size": 12, "min_size": 12, "max_size": 12}
    small = OfRows("tiny", **sizes, channels=2, niter=1)
    results = estimator_checks.check_estimator(
        small, expected_failed_checks=NOT_FOR_IMAGES, on_fail=None, on_skip=None
    )
    names = {result["check_name"] for result in results}
    assert names >= {*OF_THE_CLASS}
    assert len(names) > 40
    for result in results:
        name, status = result["check_name"], result["status"]
        if name in NOT_FOR_IMAGES:  # none that has come to pass may stay in the table
            assert status == "xfail", name
        elif name in MAY_BE_SKIPPED:
            assert status in ("passed", "skipped"), f"{name}: {result['exception']!r}"
        else:
            assert status == "passed", f"{name}: {result['exception']!r}"
    unknown = NOT_FOR_IMAGES.keys() - names
    assert not unknown, f"scikit-learn {sklearn.__version__} has no {unknown}"
